"""A disk that is full or read-only, as far as one process can tell."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def small_files(num_bytes: int) -> Iterator[None]:
    """Lets the system refuse to write more than so many bytes into any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Lets no folder be made under a path, and no file in it be opened for writing, as on a file system that is mounted so."""
    mkdir, opened = os.mkdir, os.open

    def refuse(given: Any) -> None:
        if Path(os.fsdecode(given)).is_relative_to(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), given)

    def make(given: Any, *rest: Any, **options: Any) -> None:
        refuse(given)
        mkdir(given, *rest, **options)

    def open_file(given: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            refuse(given)
        return opened(given, flags, *rest, **options)

    with mock.patch.object(os, "mkdir", make), mock.patch.object(os, "open", open_file):
        yield
