"""The rows of JSON, JSON Lines and CSV files, column by column; what is wrong with a file is said with its row."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

Columns = dict[str, list[Any]]


def read_csv(path: Path) -> Columns:
    """Every cell is a text: an empty one is "", "01" stays "01". A quoted cell may hold commas and newlines.

    Raises:
        ValueError: For a file that is not UTF-8, a column named twice, a row of more or fewer cells than the header, and a quote that is not closed.
    """
    csv.field_size_limit(sys.maxsize)  # or a cell of more than 131,072 characters, a long note, would be refused
    with text_of(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        rows: list[list[str]] = []
        try:
            names = next(filter(None, reader), [])
            for row in filter(None, reader):  # empty lines are no rows
                if len(row) != len(names):
                    raise ValueError(
                        f"{path}: row {len(rows) + 1} has {len(row)} cell(s), but the header has {len(names)}; put quotes around a cell that holds a comma."
                    )
                rows.append(row)
        except csv.Error as error:
            raise ValueError(f"{path}: row {len(rows) + 1} is not CSV ({error}); a quote inside a quoted cell is written twice.") from error
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: column `{name}` stands in the header more than once; rename one of them.")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def read_json_lines(path: Path) -> Columns:
    """One object a line; a key that a row lacks is None there.

    Raises:
        ValueError: For a file that is not UTF-8, and a line that is not one JSON object.
    """
    with text_of(path, newline="\n") as file:
        return columns_of(path, objects(path, filter(None, map(str.rstrip, file))))


def read_json(path: Path) -> Columns:
    """A list of objects, a single one, or one a line.

    Raises:
        ValueError: As for ``read_json_lines``.
    """
    with text_of(path, newline="\n") as file:
        text = file.read()
    try:
        value = loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return read_json_lines(path)
        raise ValueError(f"{path}: is not JSON ({error}); it must hold a list of objects, or one object a line.") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: is not JSON that can be read ({error}); it must hold a list of objects, or one object a line.") from error
    return columns_of(path, value if isinstance(value, list) else [value])


def objects(path: Path, lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        try:
            yield loads(line)
        except (RecursionError, ValueError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path}: row {number} is not JSON ({reason}); each line must hold one JSON object.") from error


def loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=unique)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name in found if [key for key, _ in pairs].count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def columns_of(path: Path, rows: Iterable[Any]) -> Columns:
    columns: Columns = {}
    number = 0
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} is a JSON {type(row).__name__}, not an object; give one JSON object for each row.")
        for name, value in row.items():
            column = columns.setdefault(name, [])
            column += [None] * (number - 1 - len(column))
            column.append(value)
    return {name: column + [None] * (number - len(column)) for name, column in columns.items()}


@contextmanager
def text_of(path: Path, newline: str) -> Iterator[IO[str]]:
    """A file's text, unzipped where its name ends in .gz, without a byte order mark; opened once it is known to be UTF-8."""
    try:
        with unzipped(path) as file:
            check_utf8(path, file)
        with unzipped(path) as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({str(error) or type(error).__name__}).") from error


def unzipped(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def check_utf8(path: Path, lines: Iterable[bytes]) -> None:
    """Name the first line that is not UTF-8, or holds a zero byte, as the text of UTF-16 does."""
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line {number} is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8.") from error
        if b"\0" in line:
            raise ValueError(f"{path}: line {number} is not UTF-8 text (zero byte at byte {line.index(0)}); save the file as UTF-8.")
