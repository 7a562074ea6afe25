"""Strategies: how a process ends that was a rank, and what is said while ranks start."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from lit_talr.modeling.strategies import report_start, watch_started, watch_starter
from lit_talr.utils.collectives import STARTED_BY

PROGRAM = """
import atexit, sys, threading, time
from pathlib import Path
import torch.distributed as dist
from lit_talr.modeling.strategies import end_process
done, is_rank = Path(sys.argv[1]), sys.argv[2] == "rank"
if is_rank:
    dist.init_process_group("gloo", init_method=f"file://{done}/store", rank=0, world_size=1)
atexit.register((done / "atexit").touch)
threading.Thread(target=lambda: (time.sleep(0.2), (done / "thread").touch())).start()
print("written")
try:
    end_process(3)
finally:
    (done / "unwound").touch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rank", "other"])
def test_a_process_ends_with_its_status_and_its_work(tmp_path: Path, kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), kind], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "written\n"), done.stderr
    assert (tmp_path / "atexit").is_file() and (tmp_path / "thread").is_file()
    assert (tmp_path / "unwound").is_file() == (kind == "other")  # a rank doesn't meet the interpreter's end


def test_a_rank_that_does_not_start_is_waited_for_aloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("lit_talr.utils.waiting.SECONDS", 0.05)
    strategy = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, barebones=True).strategy
    monkeypatch.setattr(strategy, "setup_environment", lambda: time.sleep(0.2))  # as where it waits for the other
    report_start(strategy, 2)
    with caplog.at_level(logging.WARNING, "lit_talr"):
        strategy.setup_environment()
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("lit_talr")]
    assert line == "Waiting for all 2 ranks to start; if one is missing or has ended, end the others and start again."


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the end of a process be seen, at once."""
    monkeypatch.setattr("lit_talr.modeling.strategies.GRACE", 0.0)
    monkeypatch.setattr(os, "_exit", sys.exit)


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize(("end", "status", "words"), [("kill -9 $$", 1, "signal 9: out of memory?"), ("exit 3", 3, "exit status 3; its own words say why")])
def test_a_rank_that_ends_is_named_and_ends_all(capsys: pytest.CaptureFixture[str], end: str, status: int, words: str) -> None:
    waiting, lost = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sh", "-c", end])
    with pytest.raises(SystemExit) as stop:
        watch_started([waiting, lost], period=0.01)
    assert (stop.value.code, waiting.wait()) == (status, -9)
    assert capsys.readouterr().err.startswith(f"lit-talr: rank 2 has ended ({words}), and all end with it; the same line with `--ckpt_path auto` continues")


@pytest.mark.usefixtures("ends")
def test_a_rank_ends_with_the_one_that_started_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(STARTED_BY, "1")  # which is not the parent
    with pytest.raises(SystemExit):
        watch_starter()
    assert capsys.readouterr().err.startswith("lit-talr (rank 1): rank 0 has ended, and all end with it")
