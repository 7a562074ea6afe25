"""Rows of JSON, JSON Lines and CSV files, one after the other; errors name the row."""

import csv
import gzip
import io
import json
import logging
import sys
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

from lightning.pytorch.utilities import rank_zero_only

from lit_talr.utils.errors import first_line

logger = logging.getLogger(__name__)
Rows = Iterator[dict[str, Any]]
SEPARATORS = ",;\t|"
"""Characters that may stand between cells."""
COMPRESSED = {".gz": (b"\x1f\x8b", "gzipped"), ".zst": (b"\x28\xb5\x2f\xfd", "compressed by zstd")}
"""Ends of the names of compressed files, the bytes that such a file begins with, and what it is."""


def read_csv(path: Path) -> Rows:
    """Every cell is a text: an empty one is "", "01" stays "01". A quoted cell may hold commas and newlines.

    The header shows what separates the cells: commas, semicolons, tabs or bars; a file ``.tsv`` has tabs. What is no comma is said in the log.

    Raises:
        ValueError: For a file that is not UTF-8, a repeated column name, a row with more or fewer cells than the header, and a quote that is not closed.
    """
    csv.field_size_limit(sys.maxsize)  # or a cell of more than 131,072 characters, a long note, would be refused
    separator = find_separator(path)
    reader = filter(None, csv.reader(read_lines(path, newline=""), strict=True, delimiter=separator))  # empty lines are no rows
    number = 0
    try:
        names = next(reader, [])
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{path}: column `{name}` stands in the header more than once; rename one of them.")
        for number, row in enumerate(reader, start=1):
            if len(row) != len(names):
                way_out = f"put quotes around a cell that holds {'a comma' if separator == ',' else f'{separator!r}, which separates the cells of this file'}"
                raise ValueError(f"{path}: row {number} has {len(row)} cell(s), but the header has {len(names)}; {way_out}.")
            yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}: row {number + 1} is not CSV ({error}); a quote inside a quoted cell is written twice.") from error


def kind_of(path: Path) -> str:
    """The end of a file's name that says what it holds, such as ``.csv`` of ``a.csv.gz``."""
    return Path(path.stem if path.suffix in COMPRESSED else path.name).suffix


def find_separator(path: Path) -> str:
    """Finds the character between the cells of a file, by its name and its header."""
    if kind_of(path) == ".tsv":
        return "\t"
    with closing(read_lines(path, newline="")) as lines:
        header = next(lines, "")
    try:
        separator = csv.Sniffer().sniff(header, SEPARATORS).delimiter
    except csv.Error:  # one column
        return ","
    if separator != ",":
        rank_zero_only(logger.info)(f"{path}: its cells are separated by {separator!r}, as its header shows.")
    return separator


def read_json_lines(path: Path) -> Rows:
    """One object a line.

    Raises:
        ValueError: For a file that is not UTF-8, and a line that is not one JSON object.
    """
    return check_objects(path, parse_lines(path, filter(None, map(str.rstrip, read_lines(path, newline="\n")))))


def read_json(path: Path) -> Rows:
    """A list of objects, a single one, or one a line.

    Raises:
        ValueError: As for ``read_json_lines``.
    """
    text = "".join(read_lines(path, newline="\n"))
    try:
        value = parse_json(text)
    except (RecursionError, ValueError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return read_json_lines(path)
        raise ValueError(f"{path}: is not JSON that can be read ({error}); it must hold a list of objects, or one object a line.") from error
    return check_objects(path, value if isinstance(value, list) else [value])


def parse_lines(path: Path, lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        try:
            yield parse_json(line)
        except (RecursionError, ValueError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path}: row {number} is not JSON ({reason}); each line must hold one JSON object.") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        repeated = next(name for name in unique if [key for key, _ in pairs].count(name) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object")
    return unique


parse_json = json.JSONDecoder(object_pairs_hook=unique_keys).decode
"""Reads a JSON text; refuses an object that has a key twice."""


def check_objects(path: Path, rows: Iterable[Any]) -> Rows:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} is a JSON {type(row).__name__}, not an object; give one JSON object for each row.")
        yield row


def read_lines(path: Path, newline: str) -> Generator[str]:
    """A file's lines of text with their ends, decompressed where its name ends in .gz or .zst, without a byte order mark.

    Raises:
        ValueError: If the file cannot be read, and for a line that is not UTF-8 or holds a zero byte, as the text of UTF-16 does.
    """
    try:
        with open_bytes(path) as content, io.TextIOWrapper(content, encoding="utf-8-sig", newline=newline) as lines:
            try:
                for line in lines:
                    if "\0" in line:
                        raise UnicodeError("zero byte")
                    yield line
            except UnicodeError as error:
                raise ValueError(why_no_text(path)) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}).") from error


def open_bytes(path: Path) -> IO[bytes]:
    """A file's content, decompressed where its name says so.

    Raises:
        ValueError: For a compressed file whose name does not say so.
    """
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    content = path.open("rb")
    start = content.peek(4)[:4]
    for end, (mark, noun) in COMPRESSED.items():
        if start.startswith(mark):
            content.close()
            raise ValueError(f"{path}: is {noun}, which its name does not say; name it {path.name}{end}, or decompress it.")
    return content


def why_no_text(path: Path) -> str:
    """The sentence about the first line that is not UTF-8 or holds a zero byte."""
    with open_bytes(path) as content:
        for number, line in enumerate(content, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{path}: line {number} is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8."
            if b"\0" in line:
                return f"{path}: line {number} is not UTF-8 text (zero byte at byte {line.index(0)}); save the file as UTF-8."
    return f"{path}: is not UTF-8; save the file as UTF-8."
