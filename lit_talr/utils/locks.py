"""Locks between processes, which the system frees when a process ends, however it ends."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

from lit_talr.utils.waiting import reported

UNSUPPORTED = (errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""Errors of file systems without locks; NFS has no exclusive one on a folder."""


class Lock:
    """A lock on a file or folder, until it is closed or dropped, or the process ends.

    Processes that are forked, such as those that load data, do not hold it: one that outlives a killed parent would. A command that is given the
    ``fileno`` holds it too.

    Args:
        path: The file, which is made if its folder has none, or an existing folder.
        shared: Whether others may hold it too that ask for a shared one.
        wait: Whether to wait for those that hold it.

    Raises:
        BlockingIOError: If another holds it, without ``wait``.
    """

    number: int | None = None

    def __init__(self, path: Path, shared: bool = False, wait: bool = False) -> None:
        flags = os.O_RDONLY if path.is_dir() or shared else os.O_RDWR | os.O_CREAT
        self.number = os.open(path, flags, 0o666)
        HELD.add(self)
        try:
            fcntl.flock(self.number, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if not (shared and error.errno in UNSUPPORTED):  # where no `fit` can run, which takes a lock, so that there is none to keep out
                self.close()
                error.filename = str(path)  # which the system leaves out
                raise

    def fileno(self) -> int:
        assert self.number is not None
        return self.number

    def close(self) -> None:
        number, self.number = self.number, None
        if number is not None:
            os.close(number)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


HELD: WeakSet[Lock] = WeakSet()
"""The locks of this process, which its forks close."""


def close_inherited() -> None:
    for lock in list(HELD):
        lock.close()


os.register_at_fork(after_in_child=close_inherited)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other thread or process is in such a block, and keeps them out."""
    if (lock := try_lock(path)) is None:
        with reported(lambda: f"the lock {path}, which another process holds; `fuser {path}` names it, and when it ends this goes on"):
            lock = Lock(path, wait=True)
    with lock:
        yield


def try_lock(path: Path) -> Lock | None:
    """Takes a lock on a file, which is made; None if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return Lock(path)
    except BlockingIOError:
        return None


def is_free(path: Path) -> bool:
    """Whether no process holds a lock."""
    if lock := try_lock(path):
        lock.close()
    return lock is not None
