"""Tables of rows from a file or the hub, with the place of every row for messages."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets


def load_rows(source: str, split: str, columns: Iterable[str], revision: str | None = None, subset: str | None = None) -> "datasets.Dataset":
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
    from lit_talr.data.tables import READERS, load_file, load_from_hub, quiet  # `datasets` takes long to import, and not every command reads rows

    path = Path(source)
    kind = Path(path.name.removesuffix(".gz")).suffix
    quiet()
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
            names = ", ".join(f"`{name}`" if name == " ".join(name.split()) else repr(name) for name in rows.column_names)
            raise ValueError(f"{source}: column `{column}` is missing; the file has {names if len(names) < 500 else names[:500] + ' ...'}.")
    return rows


def reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def row_name(source: str, index: int) -> str:
    """How messages name a row; rows count from 1."""
    return f"{source}: row {index + 1}"
