"""Locks between processes, which the system frees whatever ends a process."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other thread or process is in such a block, and keep them out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> IO[str] | None:
    """Take a lock, as long as what is returned lives, or one of the processes that inherit it; None if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock."""
    if (handle := try_lock(path)) is None:
        return False
    handle.close()
    return True
