"""Damage to files as a disk or a copy does it: one bit in one byte."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flip(path: Path, position: int, bit: int) -> None:
    """Flips one bit in place; the second time it is undone."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0] ^ (1 << bit)
        file.seek(position)
        file.write(bytes([byte]))


@contextmanager
def flipped(path: Path, position: int, bit: int) -> Iterator[None]:
    """A flipped bit inside the block, and the file as it was after it."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip(path, position, bit)
    try:
        yield
    finally:
        flip(path, position, bit)
        os.utime(path, ns=times)


def random_flips(path: Path, num_flips: int, seed: int = 0) -> Iterator[tuple[Path, int, int]]:
    """File, position and bit of flips in a file or folder: half of them anywhere by size, half in any of its files, so that small ones are hit too."""
    draw = random.Random(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in files]
    for number in range(num_flips):
        (file,) = draw.choices(files, sizes if number % 2 else None)
        yield file, draw.randrange(file.stat().st_size), draw.randrange(8)
