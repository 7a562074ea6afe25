import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint
from xxhash import xxh3_128

from lit_talr.checkpoint.seal import SIZE, save_sealed, why_unsealed
from tests.helpers.damage import flipped, random_flips

CONTENT = {"state_dict": {"a": torch.arange(40.0), "b": torch.ones(3, 5).bfloat16()}, "global_step": 3, "dtype": torch.float32}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    save_sealed(CONTENT, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_it_is_torchs_own_file_with_the_hash_of_all_its_bytes_at_the_end(sealed: Path) -> None:
    plain = io.BytesIO()
    torch.save(CONTENT, plain)
    digest = xxh3_128(plain.getvalue()).hexdigest()
    assert sealed.read_bytes() == plain.getvalue()[:-2] + b"\x32\0lit_talr xxh3_128 " + digest.encode()
    assert why_unsealed(sealed) is None


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_and_zipfile_read_it_as_ever(sealed: Path, mmap: bool) -> None:
    loaded: dict[str, Any] = torch.load(sealed, mmap=mmap, weights_only=True)
    assert loaded["global_step"] == 3 and loaded["dtype"] == torch.float32
    assert all(torch.equal(loaded["state_dict"][name], value) for name, value in CONTENT["state_dict"].items())  # type: ignore[attr-defined]
    assert get_unsafe_globals_in_checkpoint(sealed) == []
    assert zipfile.ZipFile(sealed).testzip() is None


def test_a_flipped_bit_anywhere_is_found(sealed: Path) -> None:
    for file, position, bit in random_flips(sealed, 1000):
        with flipped(file, position, bit):
            assert why_unsealed(sealed) is not None, (position, bit)
    assert why_unsealed(sealed) is None


def test_every_bit_of_the_end_counts(sealed: Path) -> None:
    """The directory of the archive, the length of the comment, and the seal itself."""
    size = sealed.stat().st_size
    for position in range(size - SIZE - 100, size):
        for bit in range(8):
            with flipped(sealed, position, bit):
                assert why_unsealed(sealed) is not None, (position, bit)


@pytest.mark.parametrize("cut", [1, 2, SIZE - 1, SIZE, SIZE + 1, SIZE + 2, SIZE + 22, 500])
def test_a_file_cut_short_is_found(sealed: Path, cut: int) -> None:
    os.truncate(sealed, sealed.stat().st_size - cut)
    assert why_unsealed(sealed) is not None
    sealed.write_bytes(b"")
    assert why_unsealed(sealed) == "is cut short, or another file"


def test_bytes_after_the_end_are_found(sealed: Path) -> None:
    with sealed.open("ab") as file:
        file.write(b"\0")
    assert why_unsealed(sealed) is not None


def test_a_file_without_a_seal_is_judged_by_the_sums_of_its_records(tmp_path: Path) -> None:
    path = tmp_path / "b.ckpt"
    torch.save(CONTENT, path)
    assert why_unsealed(path) is None
    position = path.read_bytes().index(CONTENT["state_dict"]["a"].numpy().tobytes())  # type: ignore[index]
    with flipped(path, position + 17, 3):
        assert str(why_unsealed(path)).startswith("is damaged (b/data/0")
    for file, position, bit in random_flips(path, 300):  # whatever a header says, it does not raise
        with flipped(file, position, bit):
            why_unsealed(path)
