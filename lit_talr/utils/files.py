"""Reads and writes files; a file or folder that is half-written never stands under its own name."""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from lit_talr.utils.locks import UNSUPPORTED, Lock


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one move."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one move.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
    """
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        handle, name = temporary_file(path)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~UMASK)
            os.replace(name, path)  # while it is locked
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, str(error.strerror or error), error) from error
        raise


def temporary_file(path: Path) -> tuple[int, str]:
    """Makes and opens a file next to ``path``, with a lock by which ``remove_leftovers`` of another process knows that it is being written."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return handle, name
        except BlockingIOError:
            pass  # it is being removed, as below
        except OSError as error:
            if error.errno in UNSUPPORTED:  # where nothing is removed either
                return handle, name
            raise
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of a file that they were writing; that of a living one, or on a disk without locks, stays."""
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")
    for leftover in map(path.with_name, filter(temporary.fullmatch, os.listdir(path.parent))):
        with suppress(OSError), Lock(leftover):
            leftover.unlink(missing_ok=True)


def unwritable(path: Path, reason: str, error: BaseException) -> OSError:
    """The sentence for a file or folder that cannot be written, with the way out."""
    explained = OSError(f"{path} could not be written ({reason}) and is as it was before; make room, or give a folder that you may write to.")
    explained.errno = getattr(error, "errno", None)  # by which a folder around the file knows what happened
    return explained


UMASK = os.umask(0)
"""The user's mask of permissions, which temporary files ignore. Read once, since reading it sets it for a moment, for all threads."""
os.umask(UMASK)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none yet.

    Raises:
        ValueError: For a damaged file.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy, or move it away.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object); restore it from a copy, or move it away.")
    return value


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; only a newline ends one, not Unicode's other line separators."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST)
"""Errors of a disk that is full, broken or read-only, and of a place that is another user's or a file."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which replaces ``path`` when the block ends.

    It is deleted if the block fails, and by the next one for this path if the process is killed.

    Raises:
        OSError: If it cannot be written, or another process is writing it.
    """
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (remove(part) and remove(old)):
            raise OSError(f"{path} is being written by another process; wait for its end, or name another folder.")
        part.mkdir()
        try:
            with Lock(part, shared=True):
                yield part
                complete(part)
            if path.exists():
                os.replace(path, old)  # at once; deleting it takes time, in which a process may be killed
            os.replace(part, path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        remove(old)


def complete(folder: Path) -> None:
    """Gives all files the permissions that the user's mask asks for, which some libraries ignore, and waits until they are on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~UMASK)
    synchronise(folder)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Within the block, an error in writing a new folder becomes the sentence that names it."""
    try:
        yield
    except Exception as error:
        if (reason := why_unwritable(error, path)) is not None:
            raise unwritable(path, reason, error) from error
        raise


def why_unwritable(error: BaseException, path: Path) -> str | None:
    """Why a file of a new folder could not be written, of an error of Python or of a library in Rust; None for any other error."""
    copies = isinstance(error, shutil.Error) and isinstance(error.args[0], list)  # what `copytree` could not copy, each with the error's text
    code = re.search(r"Errno (\d+)" if copies else r"os error (\d+)", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    name = error.args[0][0][1] if copies else getattr(error, "filename2", None) or getattr(error, "filename", None) or path
    file = Path(os.fsdecode(name))
    if number not in UNWRITABLE or not file.absolute().is_relative_to(path.parent.absolute()):  # another file, which was read
        return None
    return os.strerror(number) + ("" if file.name in (path.name, f".{path.name}.part") else f": {file.name}")


def remove(path: Path) -> bool:
    """Deletes a file or folder, unless another process holds a lock on it; whether it is gone."""
    if not path.exists():
        return True
    lock: AbstractContextManager[object] = nullcontext()
    try:
        lock = Lock(path)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    with lock:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return True


def synchronise(path: Path) -> None:
    """Waits until a file, or everything in a folder, is on the disk."""
    for part in (path, *(path.rglob("*") if path.is_dir() else ())):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(folder: Path) -> None:
    """Refuses a folder, or the place of a new one, that cannot be written, before hours of work that would end there. Leaves nothing.

    Raises:
        OSError: The system's, naming the folder.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        error.filename, error.filename2 = str(there), None
        raise


def check_unused(out: Path) -> None:
    """Refuses a path for a new folder that holds something already.

    Raises:
        ValueError: With the way out.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out`: {out} is there already; name a new folder.")


def looks_like_path(name: str) -> bool:
    """Whether a name can only mean a file or folder; names on the hub are ``name`` or ``owner/name``."""
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def run_around(path: Path, file: str, words: str = "; did you mean {}?") -> str:
    """Words with the run that a path lies in, such as its export or a checkpoint; empty if it lies in none.

    Args:
        path: A file or folder that is up to two folders below that of the run.
        file: The name of something that lies in the folder of a run.
        words: With a place for the folder.
    """
    return next((words.format(folder) for folder in path.parents[:2] if (folder / file).exists()), "")


MOVED = {"lit_talr/models/lab": "lit_talr/lab/base"}
"""Folders of this package that are now elsewhere."""


def shipped(name: str) -> str:
    """The folder of this package for a name such as ``lit_talr/lab/base``, unless the working folder has one of that name; else the name, ``~`` expanded.

    Raises:
        ValueError: For a folder that is now elsewhere.
    """
    name = os.path.expanduser(name)
    package = Path(__file__).parents[1]
    if Path(name).is_dir() or not name.startswith(f"{package.name}/"):
        return name
    if (new := MOVED.get(name.rstrip("/"))) is not None:
        raise ValueError(f"`{name}` is now `{new}`.")
    folder = package.parent / name
    return str(folder) if folder.is_dir() else name


def shipped_file(path: Path) -> Path:
    """The file of this package for a path such as ``lit_talr/configs/prompts/completion.jinja``, as ``shipped`` finds its folder; else the path."""
    return Path(shipped(str(path.parent))) / path.name


def why_broken(path: Path) -> str | None:
    """Names what a failed download left in the place of a file; None where it is something else."""
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, which `git lfs pull` replaces by the file"
    return "it is a web page" if start.startswith((b"<!doctype", b"<html", b"<?xml")) else None
