"""A disk that is full, as far as one process can tell."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_files(num_bytes: int) -> Iterator[None]:
    """Lets the system refuse to write more than so many bytes into any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
