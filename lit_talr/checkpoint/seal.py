"""The seal of a checkpoint of one file: the checksum of all its bytes, as the comment of its zip archive."""

import os
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from xxhash import xxh3_128

from lit_talr.utils.checksums import KIND, hash_file

MARK = f"lit_talr {KIND} ".encode()
SIZE = len(MARK) + 2 * xxh3_128().digest_size
EMPTY = b"\0\0"
"""The length of the comment, the last two bytes of an archive without one."""


class HashingFile:
    """Hashes all that is written to a file; torch writes from its beginning to its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, xxh3_128()
        self.error: OSError | None = None  # which torch's own would hide

    def write(self, content: memoryview) -> int:
        self.hash.update(content)
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_sealed(content: Any, path: Path) -> None:
    """Writes a file that ``torch.load`` and ``zipfile`` read as ever, and hashes it meanwhile.

    Raises:
        OSError, RuntimeError: If it cannot be written.
    """
    with path.open("wb") as file:
        hashing = HashingFile(file)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise hashing.error or error from error
        file.seek(-len(EMPTY), os.SEEK_END)
        file.write(seal(hashing.hash))


def seal(digest: xxh3_128) -> bytes:
    """The end of a file whose hash, with an empty comment, is ``digest``."""
    return SIZE.to_bytes(2, "little") + MARK + digest.hexdigest().encode()


def why_unsealed(path: Path) -> str | None:
    """The fault of a checkpoint file; None if it is whole. All of it is read.

    A file without a seal, which something else wrote, is judged by the CRC that torch gives each record.
    """
    num_bytes = path.stat().st_size - len(EMPTY) - SIZE
    with path.open("rb") as file:
        file.seek(max(0, num_bytes))
        end = file.read()
    if end[len(EMPTY) :].startswith(MARK):
        digest = hash_file(path, num_bytes)
        digest.update(EMPTY)
        return None if end == seal(digest) else "is damaged: its bytes are not those that were written"
    if not zipfile.is_zipfile(path) or not end.endswith(EMPTY):
        return "is cut short, or another file"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # whatever a damaged header leads to
        damaged = str(error)
    return f"is damaged ({damaged})" if damaged else None
