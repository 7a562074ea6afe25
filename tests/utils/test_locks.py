"""A lock ends with the process that took it, whatever that has started; one that is handed on lasts as long as its receiver."""

import multiprocessing
import subprocess
import time
from pathlib import Path

import pytest

from lit_talr.utils.locks import Lock, alone, is_free, try_lock


def test_a_forked_process_does_not_keep_a_lock(tmp_path: Path) -> None:
    """As those that load data, which outlive a killed run for some seconds."""
    lock = try_lock(tmp_path / "lock")
    assert lock is not None and not is_free(tmp_path / "lock")
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    try:
        assert not is_free(tmp_path / "lock")  # the child's end of it is not the lock's
        lock.close()
        deadline = time.monotonic() + 5  # the child has hardly begun
        while not is_free(tmp_path / "lock") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_free(tmp_path / "lock") and child.is_alive()
    finally:
        child.kill()
        child.join()


def test_a_command_that_is_given_a_lock_keeps_it(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    with subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()]) as command:
        lock.close()
        assert not is_free(tmp_path / "lock") and try_lock(tmp_path / "lock") is None
        command.kill()
    assert is_free(tmp_path / "lock")


def test_many_share_a_file_or_folder_and_nobody_has_it_alone_then(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    for path in (tmp_path / "file", tmp_path):
        with Lock(path, shared=True), Lock(path, shared=True):
            with pytest.raises(BlockingIOError):
                Lock(path)
        Lock(path).close()
    assert (tmp_path / "file").read_text() == "content"


def test_a_lock_that_is_dropped_is_free(tmp_path: Path) -> None:
    with alone(tmp_path / "deep" / "lock"):
        assert not is_free(tmp_path / "deep" / "lock")
    try_lock(tmp_path / "deep" / "lock")
    assert is_free(tmp_path / "deep" / "lock")
