"""The lock in torch's cache of compiled extensions, which torch takes by making a file, so that a killed build leaves it behind for good."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from torch.utils.file_baton import FileBaton

from lit_talr.utils.waiting import reported

MARK = b"lit_talr\n"
"""Content of a lock file whose owner also holds a lock of the system on it, which ends with its process."""
STALE = 3600.0
"""Age in seconds from which a lock file that no process here has open is of a build that was killed."""


class OwnedBaton(FileBaton):
    """Torch's lock of a build, except that it is taken over from a process that was killed, and that waiting for it is reported."""

    def try_acquire(self) -> bool:
        path = Path(self.lock_file_path)
        with suppress(FileNotFoundError, BlockingIOError):  # there is none, or its owner lives
            remove_abandoned(path)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            return False
        self.fd = handle  # type: ignore[assignment]
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, MARK)
        return True

    def wait(self) -> None:
        """Waits until the build has ended.

        Raises:
            ValueError: Where it will not, with the path of the lock.
        """
        path = Path(self.lock_file_path)
        with reported(lambda: f"an extension to be compiled by another process: {path} is there, {describe_owner(path)}"):
            while not self.try_acquire():
                refuse_stale(path)
                time.sleep(self.wait_seconds)
        self.release()

    def release(self) -> None:
        """Removes the file while its lock is still held; torch closes it first, and could then remove the file of the next owner."""
        assert self.fd is not None
        os.remove(self.lock_file_path)
        os.close(self.fd)
        self.fd = None


def use_owned_batons() -> None:
    """Lets torch build extensions with locks that do not outlive their process."""
    from torch.utils import cpp_extension  # a second that a run without an extension need not wait

    cpp_extension.FileBaton = OwnedBaton  # type: ignore[misc]


def remove_abandoned(path: Path) -> None:
    """Removes the lock file of a process that held it as ``OwnedBaton`` and was killed.

    Raises:
        BlockingIOError: If the process lives.
        FileNotFoundError: If there is no such file.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(handle, len(MARK)) == MARK and os.path.samestat(os.fstat(handle), path.stat()):
            path.unlink()
    finally:
        os.close(handle)


def age(path: Path) -> float:
    """Seconds since a file was made; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def owners(path: Path) -> list[int]:
    """The processes of this user and machine that have a file open."""
    target, found = str(path.resolve()), []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # a process that has ended, or is another user's
            if os.readlink(link) == target:
                found.append(int(link.parts[2]))
    return found


def describe_owner(path: Path) -> str:
    """Who holds a lock file, as far as can be told, and how to end the wait."""
    if pids := owners(path):
        return f"held by process {pids[0]}; it goes on when that has compiled it, or was ended"
    return f"{age(path):.0f} seconds old, and no process here has it open; if no other machine is compiling it, delete this file and start again"


def refuse_stale(path: Path) -> None:
    """Refuses to wait for a build that was killed.

    Raises:
        ValueError: With the path of its lock.
    """
    if (seconds := age(path)) > STALE and not owners(path):
        hours = f"{seconds / 3600:.0f} hours old, and no process here has it open"
        raise ValueError(f"{path} is the lock of a build that was killed: {hours}; delete it and start again.")
