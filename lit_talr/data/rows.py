"""Tables of rows from a file or the hub, with the place of every row for messages."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError

from lit_talr.data.text_rows import Columns, read_csv, read_json, read_json_lines

Reader = Callable[[Path], Columns]
READERS: dict[str, Reader | None] = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv, ".parquet": None}
UNREADABLE = (ValueError, TypeError, NotImplementedError, OverflowError, RecursionError)  # Arrow's errors are the first three


def load_rows(source: str, split: str, columns: Iterable[str], revision: str | None = None, subset: str | None = None) -> datasets.Dataset:
    """The rows of a local JSONL, CSV or Parquet file (also gzipped), or of one split of a data set of the hub.

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
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train")
        rows.data.validate(full=True)  # texts that are not UTF-8 would show later
        return rows
    except Exception as error:  # a broken file shows as any error of Arrow, of a codec, or of datasets
        raise ValueError(f"{path}: cannot be read as parquet ({reason(error.__cause__ or error)}).") from error


def table_of(path: Path, columns: Columns) -> datasets.Dataset:
    """Columns as a table; on failure, the first row that Arrow cannot hold is named."""

    def table(size: int | None) -> datasets.Dataset:
        return datasets.Dataset.from_dict({name: column[:size] for name, column in columns.items()}, on_mixed_types="use_json")

    def fails(size: int) -> bool:
        try:
            table(size)
        except UNREADABLE:
            return True
        return False

    try:
        return table(None)
    except UNREADABLE as error:
        sizes = range(1, len(next(iter(columns.values()))) + 1)
        row = bisect_left(sizes, True, key=fails) + 1
        raise ValueError(f"{path}: row {row} cannot be read ({reason(error)}); correct it or remove the row.") from error


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
