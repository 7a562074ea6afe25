import resource
from pathlib import Path

import pytest

from lit_talr.utils.files import new_folder, read_json, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "two\ud800")
    assert path.read_text() == "one"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "export") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "export") as folder:
        (folder / "b").write_text("2")
        raise RuntimeError
    assert [file.name for file in tmp_path.rglob("*")] == ["export", "a"]


def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sentence = "could not be written \\(File too large\\); raise the limit of file sizes, or name another place"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match=f"text {sentence}"):
            write_text(tmp_path / "text", "x" * 2000)
        with pytest.raises(OSError, match=f"export {sentence}"), new_folder(tmp_path / "export") as folder:
            (folder / "a").write_text("x" * 2000)
        with pytest.raises(OSError, match="No such file"), new_folder(tmp_path / "export"):
            (tmp_path / "nowhere").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_json(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}
    write_json(tmp_path / "a.json", {"x": "é"})
    assert read_json(tmp_path / "a.json") == {"x": "é"}
