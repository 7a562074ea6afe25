"""Writing so that nothing half-written is ever taken for a whole."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one move."""
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
"""What the user wants kept from others; temporary files are made for the user alone. Read once: it cannot be read without being set, for all threads."""
os.umask(UMASK)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; only a newline ends one, not what else Unicode takes for an end of a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of ``path`` when the block ends, and vanishes if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~UMASK)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~UMASK)
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def shipped(name: str) -> str:
    """The folder of this package that a name such as ``lit_talr/lab/base`` means, from any working folder that has none of its own; else the name."""
    package = Path(__file__).parents[1]
    folder = package.parent / name
    return str(folder) if name.startswith(f"{package.name}/") and not Path(name).is_dir() and folder.is_dir() else name
