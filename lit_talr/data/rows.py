"""Tables of rows from a file or the hub, with the place of every row for messages."""

import glob
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from lit_talr.data.text_rows import Columns, read_csv, read_json, read_json_lines

Reader = Callable[[Path], Columns]
READERS: dict[str, Reader | None] = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv, ".parquet": None}
JSON = datasets.Json()
UNREADABLE = (ValueError, TypeError, NotImplementedError, OverflowError, RecursionError)  # Arrow's errors are the first three


def load_rows(source: str, split: str, columns: Iterable[str], revision: str | None = None, subset: str | None = None) -> datasets.Dataset:
    """The rows of a local JSONL, JSON or CSV file (also gzipped), of a Parquet file, or of one split of a data set of the hub.

    Args:
        source: A path, or a hub name.
        split: Which split of a hub data set; a file is one split.
        columns: Columns that must be there.
        revision: Commit, tag or branch of a hub data set.
        subset: Which part of a hub data set that has several.

    Raises:
        ValueError: If there is no such file, it cannot be read, a row is broken, it has no rows, or a column is missing.
    """
    path = Path(source)
    kind = Path(path.name.removesuffix(".gz")).suffix
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # it logs what it raises as well
    if path.is_file() and kind in READERS:
        rows = load_file(path, READERS[kind])
    elif path.exists():
        raise ValueError(f"{source}: is {'a folder' if path.is_dir() else 'of no known kind'}; give a .jsonl, .csv or .parquet file.")
    elif kind in READERS or source.startswith((".", "/", "~")):
        raise ValueError(f"{source}: no such file of rows; give a .jsonl, .csv or .parquet file, or the name of a data set of the hub.")
    else:
        rows = load_from_hub(source, split, revision, subset)
    if not len(rows):
        raise ValueError(f"{source}: has no rows.")
    for column in columns:
        if column not in rows.column_names:
            names = ", ".join(f"`{' '.join(name.split())}`" for name in rows.column_names)
            raise ValueError(f"{source}: column `{column}` is missing; the file has {names if len(names) < 500 else names[:500] + ' ...'}.")
    return rows


def load_file(path: Path, read: Reader | None) -> datasets.Dataset:
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: has no rows, the file is empty.")
    if read is not None:
        return table_of(path, read(path))
    try:
        rows = datasets.load_dataset("parquet", data_files=glob.escape(str(path)), split="train")
        rows.data.validate(full=True)  # texts that are not UTF-8, and JSON that is none, would show later
        for _ in rows if "Json(" in repr(rows.features) else ():
            pass
        return rows
    except Exception as error:  # a broken file shows as any error of Arrow, of a codec, or of datasets
        raise ValueError(f"{path}: cannot be read as parquet ({reason(error.__cause__ or error)}).") from error


def table_of(path: Path, columns: Columns) -> datasets.Dataset:
    """Columns as a table; one that Arrow has no type for, such as one of texts and numbers, is kept as JSON."""
    try:
        return datasets.Dataset.from_dict(columns)
    except UNREADABLE:
        features = datasets.Features({name: feature_of(column) for name, column in columns.items()})
        kept = {name: column if features[name] != JSON else [as_json(path, *row) for row in enumerate(column)] for name, column in columns.items()}
        return datasets.Dataset.from_dict(kept, features)


def feature_of(column: list[Any]) -> Any:
    try:
        return datasets.Dataset.from_dict({"": column}).features[""]
    except UNREADABLE:
        return JSON


def as_json(path: Path, index: int, value: Any) -> str:
    """Encoded here, since `datasets` would take a text that looks like JSON, such as "7", for JSON."""
    try:
        text = json.dumps(value)
        if JSON.decode_example(text) == value:
            return text
        problem = "it holds a value that JSON does not keep"
    except UNREADABLE as error:
        problem = reason(error)
    raise ValueError(f"{row_name(str(path), index)} cannot be read ({problem}: {value!r:.60}); correct it or remove the row.")


def load_from_hub(name: str, split: str, revision: str | None, subset: str | None) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, subset, split=split, revision=revision)
    except (DatasetsError, OSError, ValueError) as error:  # a ValueError is about the subset or the split
        raise ValueError(f"{name}: no such file, and no data set of that name could be read from the hub ({reason(error)}).") from error


def reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def row_name(source: str, index: int) -> str:
    """How messages name a row; rows count from 1."""
    return f"{source}: row {index + 1}"
