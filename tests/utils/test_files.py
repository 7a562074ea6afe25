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


def test_json(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}
    write_json(tmp_path / "a.json", {"x": "é"})
    assert read_json(tmp_path / "a.json") == {"x": "é"}
