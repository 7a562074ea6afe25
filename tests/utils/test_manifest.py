import json
import shutil
from pathlib import Path

import pytest
from xxhash import xxh3_128

from lit_talr.utils.manifest import MANIFEST, sum_file, why_changed, write_manifest
from tests.helpers.damage import flipped, random_flips


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "part").mkdir(parents=True)
    for name, text in (("a.bin", "a" * 100), (".hidden", "b"), ("part/c.bin", "c" * 50), ("part/empty", "")):
        (folder / name).write_text(text)
    write_manifest(folder)
    return folder


def test_it_lists_size_and_hash_of_every_file_also_of_hidden_ones(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    assert content["about"] == {} and sorted(content["files"]) == [".hidden", "a.bin", "part/c.bin", "part/empty"]
    assert content["files"]["a.bin"] == {"bytes": 100, "xxh3_128": xxh3_128(b"a" * 100).hexdigest()}
    assert why_changed(folder) is None


def test_entries_that_are_known_are_not_read_again(folder: Path) -> None:
    write_manifest(folder, {"a.bin": {"bytes": 1, "xxh3_128": ""}, "gone": sum_file(folder / "a.bin")})
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert files["a.bin"]["bytes"] == 1 and "gone" not in files
    assert why_changed(folder) == "has another a.bin than was written"


def test_a_flipped_bit_of_any_file_is_found(folder: Path) -> None:
    for file, position, bit in random_flips(folder, 1000):
        with flipped(file, position, bit):
            assert why_changed(folder) is not None, (file, position, bit)
    assert why_changed(folder) is None


def test_every_bit_of_the_manifest_counts(folder: Path) -> None:
    path = folder / MANIFEST
    for position in range(path.stat().st_size):
        for bit in range(8):
            with flipped(path, position, bit):
                assert why_changed(folder) == f"has a {MANIFEST} that is cut short or damaged", (position, bit)


def test_missing_added_and_exchanged_files_are_found(folder: Path) -> None:
    (folder / "part" / "c.bin").rename(folder / "part" / "d.bin")
    assert why_changed(folder) == "lacks part/c.bin"
    shutil.copy(folder / "part" / "d.bin", folder / "part" / "c.bin")
    assert why_changed(folder) == "has part/d.bin, which its manifest does not list"
    assert why_changed(folder, listed="*.safetensors") is None
    (folder / "part" / "d.bin").unlink()
    (folder / "a.bin").write_text("b" * 100)
    assert why_changed(folder) == "has another a.bin than was written"
    (folder / MANIFEST).unlink()
    assert why_changed(folder) == f"has no {MANIFEST}, which is written last"


def test_a_model_card_may_change(folder: Path) -> None:
    (folder / "README.md").write_text("scores")
    assert why_changed(folder) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"files": {}}', '{"about": {}, "files": []}', "\ufeff{}"])
def test_another_file_of_its_name_is_no_manifest(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    assert why_changed(folder) == f"has a {MANIFEST} that is cut short or damaged"
