"""Files and data sets of the hub as tables of `datasets`."""

import glob
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from lit_talr.data.rows import reason, row_name
from lit_talr.data.text_rows import Columns, read_csv, read_json, read_json_lines

Reader = Callable[[Path], Columns]
READERS: dict[str, Reader | None] = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv, ".parquet": None}
JSON = datasets.Json()
UNREADABLE = (ValueError, TypeError, NotImplementedError, OverflowError, RecursionError)  # Arrow's errors are the first three


def quiet() -> None:
    """No bars of `datasets`, and none of its log, which says what it raises as well."""
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)


def load_file(path: Path, read: Reader | None) -> datasets.Dataset:
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: has no rows, the file is empty.")
    if read is not None:
        return table_of(path, read(path))
    try:
        with path.open("rb") as file:  # a name of the content: datasets keeps what it read under the file's name and time
            content = hashlib.file_digest(file, "sha256").hexdigest()
        rows = datasets.load_dataset("parquet", f"content-{content}", data_files=glob.escape(str(path)), split="train")
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
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:  # a ValueError is about the subset or the split, a RuntimeError about a script
        raise ValueError(f"{name}: no such file, and no data set of that name could be read from the hub ({reason(error)}).") from error
