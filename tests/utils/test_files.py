import os
import shutil
from pathlib import Path

import pytest

from lit_talr.utils.files import check_writable, looks_like_path, new_folder, read_json, shipped, temporary_file, write_json, write_text
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
    with small_files(1_000), pytest.raises(OSError, match="out could not be written .File too large: large."), new_folder(tmp_path / "out") as folder:
        shutil.copyfile(source / "large", folder / "large")
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out"):
        (tmp_path / "none").read_text()  # another file's problem stays what it is
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source"]


def test_what_a_killed_process_left_of_a_folder_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.old").mkdir()  # as by a kill between the two moves
    if (child := os.fork()) == 0:
        with new_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("")
            os._exit(0)
    os.waitpid(child, 0)
    assert [path.name for path in (tmp_path / ".out.part").iterdir()] == ["half"] and list((tmp_path / "out").iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["out", "out/whole"]


def test_what_a_killed_process_left_of_a_file_is_removed_by_the_next_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    for name in (".file.txt.abcd_012", ".file.txt.mine", ".other.txt.abcd_012"):
        (tmp_path / name).touch()
    handle, living = temporary_file(tmp_path / "file.txt")
    write_text(tmp_path / "file.txt", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".file.txt.mine", ".other.txt.abcd_012", "file.txt", Path(living).name])
    os.close(handle)
    write_text(tmp_path / "file.txt", "two")
    assert not Path(living).exists()


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("")
        with pytest.raises(OSError, match="out is being written by another process; wait for its end, or name another folder"), new_folder(tmp_path / "out"):
            pass
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["out", "out/a"]


def test_a_file_that_cannot_be_replaced_is_as_before(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "old")
    with small_files(10), pytest.raises(OSError, match=r"page.html could not be written \(File too large\) and is as it was before; make room"):
        write_text(tmp_path / "page.html", "new" * 10)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError) as error:
            check_writable(folder)
        assert error.value.filename == str(tmp_path / "file")


def test_paths_and_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    assert all(map(looks_like_path, ("./x", "/x", "~/x", "../x", "runs/x/export", "here")))
    assert not any(map(looks_like_path, ("gpt2", "Qwen/Qwen3-4B")))
    assert shipped("~/here") == str(tmp_path / "here") and shipped("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"


def test_json(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}
    write_json(tmp_path / "a.json", {"x": "é"})
    assert read_json(tmp_path / "a.json") == {"x": "é"}


@pytest.mark.parametrize("content", ['{"fits": [', "[]", "caf\udce9"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "provenance.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="provenance.json is damaged .*; restore it from a copy, or move it away"):
        read_json(tmp_path / "provenance.json")
