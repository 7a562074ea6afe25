"""Rows from a file or a data set of the hub as a table of `datasets`; errors name the row."""

import glob
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_talr.data.table import make_table
from lit_talr.data.text_rows import Rows, kind_of, read_csv, read_json, read_json_lines
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import looks_like_path, why_broken
from lit_talr.utils.waiting import cache_fault, fetching

if TYPE_CHECKING:  # takes long to import, and not every command reads rows
    import datasets

READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": read_json_lines, ".json": read_json, ".csv": read_csv, ".tsv": read_csv}
KINDS = "a .jsonl, .json, .csv, .tsv (also .gz and .zst) or .parquet file"
SPLITS = {"validation": ("validation", "val", "valid", "dev")}
"""Names that a split has in folders, where there are several."""


def load_rows(source: str, split: str, columns: Iterable[str], revision: str | None = None, subset: str | None = None) -> "datasets.Dataset":
    """Loads the rows of a local JSONL, JSON, CSV or TSV file (also compressed), of a Parquet file, or of one split of a saved or a hub data set.

    Args:
        source: A path, or a hub name.
        split: The split of a folder that ``datasets`` saved, or of a hub data set; a file is one split.
        columns: Columns that must be there.
        revision: Commit, tag or branch of a hub data set.
        subset: The configuration of a hub data set that has several.

    Raises:
        ValueError: If there is no such file, it cannot be read, a row is broken, it has no rows, or a column is missing.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # it logs what it raises as well
    path = Path(source)
    kind = kind_of(path)
    if path.is_file() and kind in (*READERS, ".parquet"):
        check_content(path)
        rows = make_table(path, READERS[kind](path)) if kind in READERS else load_parquet(path)
    elif path.is_dir():
        rows = load_saved(path, split)
    elif path.exists():
        raise ValueError(f"{source}: is of no known kind; give {KINDS}.")
    elif kind in (*READERS, ".parquet") or looks_like_path(source):
        raise ValueError(f"{source}: no such file of rows; give {KINDS}, or the name of a data set of the hub.")
    else:
        rows = load_from_hub(source, split, revision, subset)
    if not len(rows):
        raise ValueError(f"{source}: has no rows.")
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(f"{source}: {missing_column(column, rows)}")
    return rows


def check_content(path: Path) -> None:
    """Refuses a file that cannot be opened, and what a failed download left in the place of one.

    Raises:
        ValueError: With the reason.
    """
    try:
        fault = why_broken(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}).") from error
    if fault:
        raise ValueError(f"{path}: has no rows: {fault}; fetch or write it again.")


def missing_column(column: str, rows: "datasets.Dataset", way_out: str = "") -> str:
    """The end of a sentence about a column that a file lacks, with the way out: one object around all rows explains it."""
    if inner := list_of_rows(rows):
        return f"is one object, whose `{inner}` holds the rows; write that list itself, or one of its objects a line."
    return f"column `{column}` is missing; the file has {show_columns(rows.column_names)}{f'; {way_out}' if way_out else ''}."


def show_columns(names: Sequence[str]) -> str:
    """The names of columns, for messages."""
    shown = ", ".join(f"`{name}`" if name == " ".join(name.split()) else repr(name) for name in names)
    return shown if len(shown) < 500 else shown[:500] + " ..."


def list_of_rows(rows: "datasets.Dataset") -> str | None:
    """The key whose list of objects, which are no turns of a conversation, stands for rows in a file of one object; None for all other files."""
    if len(rows) != 1:
        return None
    lists = {name: value for name, value in rows[0].items() if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)}
    return next((name for name, items in lists.items() if name != "tools" and not {"role", "from"} & items[0].keys()), None)


def load_parquet(path: Path) -> "datasets.Dataset":
    import datasets

    try:
        with path.open("rb") as file:  # a name of the content: `datasets` caches a table under the file's name and time
            content = hashlib.file_digest(file, "sha256").hexdigest()
        rows = datasets.load_dataset("parquet", f"content-{content}", data_files=glob.escape(str(path)), split="train", trust_remote_code=False)
        rows.data.validate(full=True)  # finds texts that are not UTF-8, which would show later
        for _ in rows if "Json(" in repr(rows.features) else ():  # finds broken JSON
            pass
        return rows
    except Exception as error:  # a broken file shows as any error of Arrow, of a codec, or of `datasets`
        raise ValueError(f"{path}: cannot be read as parquet ({cache_fault() or first_line(error.__cause__ or error)}).") from error


def load_saved(path: Path, split: str) -> "datasets.Dataset":
    """Loads a folder that ``save_to_disk`` of `datasets` wrote, or the split of one that holds several.

    Raises:
        ValueError: For a folder of something else, a damaged one, and a missing split.
    """
    import datasets

    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise ValueError(f"{path}: is a folder that `save_to_disk` of `datasets` did not write; give {KINDS}, or several by a pattern, such as {path}/*.jsonl.")
    try:
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            names = [name for name in SPLITS.get(split, (split,)) if name in saved]
            if not names:
                raise ValueError(f"has no split `{split}`, but {show_columns(list(saved))}; give the folder of one of these")
            saved = saved[names[0]]
        saved.data.validate(full=True)
        return saved.with_format(None)
    except Exception as error:  # a damaged folder shows as any error of Arrow, of JSON, or of `datasets`
        raise ValueError(f"{path}: cannot be read as a folder of `datasets` ({first_line(error.__cause__ or error)}).") from error


def load_from_hub(name: str, split: str, revision: str | None, subset: str | None) -> "datasets.Dataset":
    import datasets

    try:
        with fetching(name):
            return datasets.load_dataset(name, subset, split=split, revision=revision, trust_remote_code=False)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:  # ValueError: subset or split; RuntimeError: a script
        reason = first_line(error)
        raise ValueError(f"{name}: no such file, and no data set of that name could be read from the hub ({reason}).") from error
