"""A build of an extension that was killed does not stop the next one."""

import logging
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lit_talr.modeling.extensions import MARK, OwnedBaton, refuse_stale, use_owned_batons
from tests.helpers.fits import write_data
from tests.training.test_faults import COMMAND, ROOT, environment, words


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(MARK)  # and no process holds it
    baton = OwnedBaton(str(tmp_path / "lock"))
    assert baton.try_acquire()
    assert not OwnedBaton(str(tmp_path / "lock")).try_acquire()
    baton.release()
    assert not (tmp_path / "lock").exists()


def test_that_of_a_living_one_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("lit_talr.utils.waiting.SECONDS", 0.05)
    owner, waiting = OwnedBaton(str(tmp_path / "lock")), OwnedBaton(str(tmp_path / "lock"), wait_seconds=0.01)
    assert owner.try_acquire()
    threading.Timer(0.5, owner.release).start()
    with caplog.at_level(logging.WARNING, "lit_talr"):
        waiting.wait()
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{tmp_path / 'lock'} is there, held by process {os.getpid()}" in line
    assert not (tmp_path / "lock").exists()


def test_torchs_own_is_never_taken_and_refused_when_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"")
    assert not OwnedBaton(str(path)).try_acquire()
    refuse_stale(path)
    os.utime(path, (0, 0))
    with path.open():
        refuse_stale(path)  # it is old, and a process has it open
    with pytest.raises(ValueError, match="lock is the lock of a build that was killed: .* hours old, and no process here has it open; delete it"):
        OwnedBaton(str(path)).wait()


def test_torch_builds_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "FileBaton", cpp_extension.FileBaton)
    use_owned_batons()
    assert cpp_extension.FileBaton is OwnedBaton


@pytest.mark.slow
def test_zero_on_cpu_ranks_refuses_the_lock_of_a_killed_build_and_does_not_wait(tmp_path: Path) -> None:
    write_data(tmp_path)
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    command = [*COMMAND, *words(tmp_path, "run", ("-c", "configs/strategy/zero2-cpu.yaml", "--trainer.devices", "1"))]
    variables = {**environment(), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"lit-talr: {lock} is the lock of a build that was killed: " in done.stderr and "; delete it and start again.\n" in done.stderr
