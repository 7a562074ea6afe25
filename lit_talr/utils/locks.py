"""Locks between processes, which the system frees when a process ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other thread or process is in such a block, and keeps them out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> IO[str] | None:
    """Takes a lock, which lasts until the returned file is closed in this process and in those that inherit it; None if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def is_free(path: Path) -> bool:
    """Whether no process holds a lock."""
    if handle := try_lock(path):
        handle.close()
    return handle is not None
