"""Checksums of files against damage, not against forgery: xxh3_128, many times as fast as a disk."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

from xxhash import xxh3_128

from lit_talr.utils.collectives import rank

logger = logging.getLogger(__name__)
KIND = "xxh3_128"
CHECKED = "LIT_TALR_CHECKED"
"""Environment variable with the states of what was compared last, which the ranks that Lightning starts inherit."""
NUM_STATES = 64
SECONDS = 5
"""Comparing says so in the log where it takes longer."""


def hash_file(path: Path, num_bytes: int | None = None) -> xxh3_128:
    """The hash of a file, or of its first bytes."""
    digest, buffer = xxh3_128(), memoryview(bytearray(2**20))
    with path.open("rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size if num_bytes is None else num_bytes
        while left > 0 and (size := file.readinto(buffer[:left])):
            digest.update(buffer[:size])
            left -= size
    return digest


def find_fault(path: Path, compare: Callable[[Path], str | None]) -> str | None:
    """Compares a file or folder with its checksums, once for this process and those that it starts, until a size or time in it changes.

    Args:
        path: The file or folder.
        compare: Reads all of it and returns its fault, such as "lacks FILE"; None if it has none.
    """
    timer = Timer(SECONDS, logger.info, [f"Checking {path} ..."])
    timer.daemon = True
    if rank() == 0:
        timer.start()
    try:
        state, known = state_of(path), os.environ.get(CHECKED, "").split()
        if state in known:
            return None
        fault = compare(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    finally:
        timer.cancel()
    if fault is None and state:
        os.environ[CHECKED] = " ".join([*known[1 - NUM_STATES :], state])
    return fault


def state_of(path: Path) -> str:
    """Differs once a file was written, replaced, added or deleted; empty while the last change is too recent to tell the next one by its time."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file in files for stat in [file.stat()]]
    is_recent = max((times[-1] for times in stats), default=0) > time.time_ns() - 10**9
    return "" if is_recent else xxh3_128(repr((path.absolute(), stats)).encode()).hexdigest()
