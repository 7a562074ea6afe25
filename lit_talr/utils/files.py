"""Reads and writes files; a file or folder that is half-written never stands under its own name."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

DISK = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit of file sizes",
    errno.EROFS: "make it writable",
}
"""Errors of a disk that cannot be written, and the ways out."""


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one move."""
    write_bytes(path, text.encode())


@contextmanager
def explain_full(path: Path) -> Iterator[None]:
    """Within the block, an error of a full or read-only disk names the path that was to be written, and the way out."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or next((number for number in DISK if os.strerror(number) in str(error)), None)
        if number not in DISK:
            raise
        raise OSError(f"{path} could not be written ({os.strerror(number)}); {DISK[number]}, or name another place.") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one move."""
    with explain_full(path):
        replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~UMASK)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


UMASK = os.umask(0)
"""The user's mask of permissions, which temporary files ignore. Read once, since reading it sets it for a moment, for all threads."""
os.umask(UMASK)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; only a newline ends one, not Unicode's other line separators."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which replaces ``path`` when the block ends, and is deleted if the block fails."""
    with explain_full(path), filled_folder(path) as folder:
        yield folder


@contextmanager
def filled_folder(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~UMASK)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~UMASK)
        synchronise(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def synchronise(path: Path) -> None:
    """Waits until a file, or everything in a folder, is on the disk."""
    for part in (path, *(path.rglob("*") if path.is_dir() else ())):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_unused(out: Path) -> None:
    """Refuses a path for a new folder that holds something already.

    Raises:
        ValueError: With the way out.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out`: {out} is there already; name a new folder.")


MOVED = {"lit_talr/models/lab": "lit_talr/lab/base"}
"""Folders of this package that are now elsewhere."""


def shipped(name: str) -> str:
    """The folder of this package for a name such as ``lit_talr/lab/base``, unless the working folder has one of that name; any other name is unchanged.

    Raises:
        ValueError: For a folder that is now elsewhere.
    """
    package = Path(__file__).parents[1]
    if Path(name).is_dir() or not name.startswith(f"{package.name}/"):
        return name
    if (new := MOVED.get(name.rstrip("/"))) is not None:
        raise ValueError(f"`{name}` is now `{new}`.")
    folder = package.parent / name
    return str(folder) if folder.is_dir() else name
