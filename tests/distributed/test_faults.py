"""What befalls one of two ranks ends both within a minute, and keeps what it can."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.cases import ROOT
from tests.helpers.fits import write_data
from tests.helpers.full_disk import small_files
from tests.training.test_faults import words

pytestmark = [pytest.mark.ranks, pytest.mark.slow]


def befall(folder: Path, strategy: str, rank: int, fault: signal.Signals) -> tuple[int, str]:
    """Send a signal to one of two ranks, which Lightning launches, in their second step; gives the first one's exit status, and what both complained of."""
    write_data(folder)
    callback = ["--trainer.callbacks+", '{"class_path": "tests.training.test_faults.Slow"}']
    command = [sys.executable, "-m", "lit_talr", *words(folder, "run", ("-c", f"configs/strategy/{strategy}.yaml")), *callback]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "error").open("w") as error:
        first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=error)
        wait_for(lambda: (folder / "run" / "started").exists(), 120)
        (second,) = map(int, Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split())
        os.kill((first.pid, second)[rank], fault)
        status = first.wait(60)
        wait_for(lambda: not alive(second), 60)
    return status, (folder / "error").read_text()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_other(tmp_path: Path, rank: int) -> None:
    status, _ = befall(tmp_path, "ddp-cpu", rank, signal.SIGKILL)
    assert status != 0


@pytest.mark.parametrize(("strategy", "rank"), [("ddp-cpu", 0), ("ddp-cpu", 1), ("zero2-cpu", 0)])
def test_either_rank_can_be_told_to_end(tmp_path: Path, strategy: str, rank: int) -> None:
    status, error = befall(tmp_path, strategy, rank, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert "Stopped after step" in error and "Traceback" not in error
    assert len(list((tmp_path / "run" / "checkpoints").glob("last-step=*.ckpt"))) == 1


@pytest.mark.parametrize("strategy", ["ddp-cpu", "fsdp2-cpu"])
def test_a_full_disk_ends_both_and_each_names_the_checkpoint(tmp_path: Path, strategy: str) -> None:
    write_data(tmp_path)
    command = [sys.executable, "-m", "lit_talr", *words(tmp_path, "run", ("-c", f"configs/strategy/{strategy}.yaml"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with small_files(40_000):
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    for rank in ("", r" \(rank 1\)"):
        assert re.search(rf"lit-talr{rank}: {tmp_path}/run/checkpoints/.* could not be written .*File too large.*: make room", done.stderr), done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
