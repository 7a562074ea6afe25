"""Rows of JSON, JSON Lines and CSV files as columns; errors name the row."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lit_talr.utils.errors import first_line

Columns = dict[str, list[Any]]
SEPARATORS = (";", "\t", "|")
"""Characters between cells where they are no commas."""


def read_csv(path: Path) -> Columns:
    """Every cell is a text: an empty one is "", "01" stays "01". A quoted cell may hold commas and newlines.

    Raises:
        ValueError: For a file that is not UTF-8, a repeated column name, a row with more or fewer cells than the header, and a quote that is not closed.
    """
    csv.field_size_limit(sys.maxsize)  # or a cell of more than 131,072 characters, a long note, would be refused
    text = open_text(path, newline="")
    separator = other_separator(text.readline())
    text.seek(0)
    reader = filter(None, csv.reader(text, strict=True))  # empty lines are no rows
    rows: list[list[str]] = []
    try:
        names = next(reader, [])
        for row in reader:
            if len(row) != len(names):
                way_out = separator or "put quotes around a cell that holds a comma"
                raise ValueError(f"{path}: row {len(rows) + 1} has {len(row)} cell(s), but the header has {len(names)}; {way_out}.")
            rows.append(row)
    except csv.Error as error:
        way_out = separator or "a quote inside a quoted cell is written twice"
        raise ValueError(f"{path}: row {len(rows) + 1} is not CSV ({error}); {way_out}.") from error
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: column `{name}` stands in the header more than once; rename one of them.")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def other_separator(header: str) -> str:
    """The way out where the names of the columns show that no commas separate the cells of a file; empty for all others."""
    found = next((mark for mark in SEPARATORS if mark in header and "," not in header), None)
    return f"write it with commas, since its cells are separated by {found!r}" if found else ""


def read_json_lines(path: Path) -> Columns:
    """One object a line; a key that a row lacks is None there.

    Raises:
        ValueError: For a file that is not UTF-8, and a line that is not one JSON object.
    """
    return columns_of(path, parse_lines(path, filter(None, map(str.rstrip, open_text(path, newline="\n")))))


def read_json(path: Path) -> Columns:
    """A list of objects, a single one, or one a line.

    Raises:
        ValueError: As for ``read_json_lines``.
    """
    text = open_text(path, newline="\n").read()
    try:
        value = parse_json(text)
    except (RecursionError, ValueError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return read_json_lines(path)
        raise ValueError(f"{path}: is not JSON that can be read ({error}); it must hold a list of objects, or one object a line.") from error
    return columns_of(path, value if isinstance(value, list) else [value])


def parse_lines(path: Path, lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        try:
            yield parse_json(line)
        except (RecursionError, ValueError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path}: row {number} is not JSON ({reason}); each line must hold one JSON object.") from error


def parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=unique_keys)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        repeated = next(name for name in unique if [key for key, _ in pairs].count(name) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object")
    return unique


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


def open_text(path: Path, newline: str) -> IO[str]:
    """A file's text, unzipped where its name ends in .gz, without a byte order mark.

    Raises:
        ValueError: If the file cannot be read, and for the first line that is not UTF-8 or holds a zero byte, as the text of UTF-16 does.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}).") from error
    if content.startswith(b"\x1f\x8b"):
        raise ValueError(f"{path}: is gzipped, which its name does not say; name it {path.name}.gz, or unzip it.")
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line {number} is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8.") from error
        if b"\0" in line:
            raise ValueError(f"{path}: line {number} is not UTF-8 text (zero byte at byte {line.index(0)}); save the file as UTF-8.")
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=newline)
