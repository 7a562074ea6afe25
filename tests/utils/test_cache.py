from pathlib import Path

import pytest
import torch

from lit_talr.utils.cache import ContentCache, Entry

ENTRY = Entry({"a": torch.arange(5, dtype=torch.int32), "b": torch.tensor([[True, False]]), "none": torch.zeros(0)}, {"score": 0.25, "texts": ["é", ""]})


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "runs" / "one", "kind", "text", b"bytes")


def assert_is_entry(entry: Entry | None) -> None:
    assert entry is not None and entry.record == ENTRY.record and entry.tensors.keys() == ENTRY.tensors.keys()
    for name, tensor in ENTRY.tensors.items():
        assert entry.tensors[name].dtype == tensor.dtype and torch.equal(entry.tensors[name], tensor)


def test_a_whole_entry_is_read_back_by_the_runs_of_one_folder(tmp_path: Path, cache: ContentCache) -> None:
    assert cache.read() is None
    assert cache.write(ENTRY)
    assert cache.path.parent == tmp_path / "runs" / ".cache" and cache.path.name == f"kind-{cache.key[:32]}.safetensors"
    assert_is_entry(cache.read())
    assert_is_entry(ContentCache(tmp_path / "runs" / "other", "kind", "text", b"bytes").read())


@pytest.mark.parametrize("about", [("kind", "other", b"bytes"), ("kind", "text"), ("kind", "textb", b"ytes"), ("kind2", "text", b"bytes")], ids=str)
def test_another_key_is_another_entry(tmp_path: Path, cache: ContentCache, about: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cache.write(ENTRY)
    other = ContentCache(tmp_path / "runs" / "one", *about)
    assert other.path != cache.path and other.read() is None
    other.path.write_bytes(cache.path.read_bytes())
    assert other.read() is None and "belongs to other content; it is computed again" in caplog.text


def test_an_entry_that_is_not_whole_is_not_read(cache: ContentCache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cache.write(ENTRY)
    whole = cache.path.read_bytes()

    def flip(index: int) -> bytes:
        return whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :]

    cut = dict.fromkeys((b"", whole[: len(whole) // 2], whole[:-1], flip(9)), "is not whole")
    for content, problem in (cut | dict.fromkeys((flip(whole.index(b"0.25")), flip(len(whole) - 1)), "is not what was written")).items():
        cache.path.write_bytes(content)
        caplog.clear()
        assert cache.read() is None
        assert f"kind: {cache.path} {problem}; it is computed again." in caplog.text
    cache.write(ENTRY)
    assert_is_entry(cache.read())


def test_a_full_disk_is_reported_and_ends_no_run(cache: ContentCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert not cache.write(ENTRY)
    assert "kind could not be cached ([Errno 28] No space left on device); this run goes on, the next one computes it again." in caplog.text
    assert cache.read() is None and list(cache.path.parent.iterdir()) == []
