"""What the system refuses is one sentence with the path and the way out, in every command."""

import errno
import os
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from lit_talr.utils.errors import explain_lost_rank, explain_system_error
from tests.helpers.fits import write_data
from tests.helpers.full_disk import read_only
from tests.sweep.stub import words as sweep_words


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.EACCES, "Permission denied); get the right to, or name another place."),
        (errno.EROFS, "Read-only file system); get the right to, or name another place."),
        (errno.ENOSPC, "No space left on device); make room, and start again by the same line."),
        (errno.ENOLCK, "No locks available); name a folder on a disk that has locks."),
        (errno.EIO, "Input/output error); once the cause is gone, start again by the same line."),
    ],
)
def test_the_path_the_reason_and_the_way_out(number: int, way_out: str) -> None:
    assert explain_system_error(OSError(number, os.strerror(number), "runs/x/.lock")) == f"runs/x/.lock cannot be read or written ({way_out}"


def test_a_full_disk_without_a_path_says_where_to_look() -> None:
    assert explain_system_error(OSError(errno.ENOSPC, "No space left on device")).startswith("A file of the run, of a cache or in TMPDIR cannot be ")


def test_what_is_no_file_or_a_sentence_already_stays() -> None:
    assert explain_system_error(OSError(errno.ECONNREFUSED, "Connection refused")) == "[Errno 111] Connection refused"
    assert explain_system_error(OSError("x could not be written.")) == "x could not be written."


@pytest.mark.parametrize("message", ["[gloo/transport/tcp/pair.cc:553] Connection closed by peer. GLHF!", "sendBytes failed on SocketImpl"])
def test_a_rank_that_lost_another_says_so(message: str) -> None:
    assert str(explain_lost_rank(message)).startswith("another rank has ended, by an error of its own or a signal")
    assert explain_lost_rank("hub: Connection reset by peer") is None


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a model, and a file in whose place a folder is asked for."""
    folder = tmp_path_factory.mktemp("inputs")
    write_data(folder)
    (folder / "file").write_text("")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and "Traceback" not in error, error
    return error.splitlines()[-1]


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_run_where_none_can_be_made_is_one_sentence(inputs: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(inputs / f"{split}.jsonl"))]
    words = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/standard.yaml", *files]
    words += ["--model.pretrained", str(inputs / "model"), "--model.tokenizer", str(inputs / "tokenizer"), "--trainer.accelerator", "cpu"]
    sentence = refused(capsys, verb, *words, "--run", str(inputs / "file" / "run"))
    assert str(inputs / "file") in sentence and "cannot be read or written (Not a directory); correct the path." in sentence


def test_a_read_only_disk_is_one_sentence(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(inputs / f"{split}.jsonl"))]
    words = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/standard.yaml", *files, "--trainer.accelerator", "cpu"]
    words += ["--model.pretrained", str(inputs / "model"), "--model.tokenizer", str(inputs / "tokenizer"), "--run", str(inputs / "disk" / "run")]
    models = ["--tuned", str(inputs / "model"), "--base", str(inputs / "model"), "--out", str(inputs / "disk" / "out")]
    (inputs / "disk").mkdir()
    with read_only(inputs / "disk"):
        sentence = "disk/run cannot be read or written (Read-only file system); get the right to, or name another place."
        assert sentence in refused(capsys, "fit", *words)
        sentence = "disk cannot be read or written (Read-only file system); get the right to, or name another place."
        assert sentence in refused(capsys, "test", *words)  # before it generates
        sentence = "out could not be written (Read-only file system) and is as it was before; make room, or give a folder that you may write to."
        assert sentence in refused(capsys, "merge", *models)


@pytest.mark.slow
def test_a_sweep_where_none_can_be_made_is_one_sentence(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "sweep", *sweep_words(inputs)[:-1], str(inputs / "file" / "out"))
    assert str(inputs / "file") in sentence and "cannot be read or written (Not a directory); correct the path." in sentence


def test_a_merge_where_none_can_be_made_is_one_sentence(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "merge", "--tuned", str(inputs / "model"), "--base", str(inputs / "model"), "--out", str(inputs / "file" / "out"))
    assert "out could not be written (File exists: file) and is as it was before; make room, or give a folder that you may write to." in sentence
