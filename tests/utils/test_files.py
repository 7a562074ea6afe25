import shutil
from pathlib import Path

import pytest

from lit_talr.utils.files import new_folder, read_json, write_json, write_text
from tests.helpers.full_disk import small_files


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


def test_a_folder_that_cannot_be_made_or_filled_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="out could not be written .File exists: file"), new_folder(tmp_path / "file" / "out"):
        pass
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(bytes(2_000))
    with small_files(1_000), pytest.raises(OSError, match="out could not be written .*File too large"), new_folder(tmp_path / "out") as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out"):
        (tmp_path / "none").read_text()  # another file's problem stays what it is
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source"]


def test_json(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}
    write_json(tmp_path / "a.json", {"x": "é"})
    assert read_json(tmp_path / "a.json") == {"x": "é"}
