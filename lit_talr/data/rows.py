"""Tables of rows from a file or the hub, with the place of every row for messages."""

import gzip
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import datasets
import pandas
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def load_rows(source: str, split: str, columns: Iterable[str], revision: str | None = None) -> datasets.Dataset:
    """The rows of a local JSONL, CSV or Parquet file (also gzipped), or of one split of a data set of the hub.

    Args:
        source: A path, or a hub name.
        split: Which split of a hub data set; a file is one split.
        columns: Columns that must be there.
        revision: Commit, tag or branch of a hub data set.

    Raises:
        ValueError: If there is no such file, it cannot be read, a row is broken, it has no rows, or a column is missing.
    """
    path = Path(source)
    suffixes = [suffix for suffix in path.suffixes if suffix in FORMATS]
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # it logs what it raises as well
    if path.is_file() and suffixes:
        rows = load_file(path, FORMATS[suffixes[-1]])
    elif path.exists():
        raise ValueError(f"{source}: is {'a folder' if path.is_dir() else 'of no known kind'}; give a .jsonl, .csv or .parquet file.")
    elif suffixes or source.startswith((".", "/", "~")):
        raise ValueError(f"{source}: no such file of rows; give a .jsonl, .csv or .parquet file, or the name of a data set of the hub.")
    else:
        rows = load_from_hub(source, split, revision)
    if not len(rows):
        raise ValueError(f"{source}: has no rows.")
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(f"{source}: column `{column}` is missing; the file has {', '.join(f'`{name}`' for name in rows.column_names)}.")
    return rows


def load_file(path: Path, kind: str) -> datasets.Dataset:
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: has no rows, the file is empty.")
    if kind in ("json", "csv"):
        check_utf8(path)
    try:
        if kind == "csv":  # every cell a text: an empty one is "", "01" stays "01"
            return datasets.Dataset.from_pandas(pandas.read_csv(path, dtype=str, keep_default_na=False))
        return datasets.load_dataset(kind, data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError) as error:  # Arrow's, pandas' and Unicode's errors are ValueErrors
        if kind == "json" and path.suffix == ".jsonl":
            check_json_lines(path)
        raise ValueError(f"{path}: cannot be read as {kind} ({str(error.__cause__ or error).splitlines()[0]}).") from error


def check_utf8(path: Path) -> None:
    """Name the first line that is not UTF-8; ``datasets`` would put other characters in its place."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: row {number} is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8.") from error


def check_json_lines(path: Path) -> None:
    """Name the first line that is not one JSON object."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            value = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: row {number} is not JSON ({error.msg} at column {error.colno}); each line must hold one JSON object.") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}: row {number} is a JSON {type(value).__name__}, not an object; each line must hold one JSON object.")


def load_from_hub(name: str, split: str, revision: str | None) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, split=split, revision=revision)
    except (DatasetNotFoundError, ConnectionError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name}: no such file, and no data set of that name could be read from the hub ({reason}).") from error


def row_name(source: str, index: int) -> str:
    """How messages name a row; rows count from 1."""
    return f"{source}: row {index + 1}"
