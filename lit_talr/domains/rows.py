"""Rows of data sets: names for messages, checks of values, and splits by hash."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_talr.data.table import row_name
from lit_talr.utils.errors import not_text

if TYPE_CHECKING:
    import datasets

Row = Mapping[str, Any]


def named_rows(source: str, rows: "datasets.Dataset", indices: Sequence[int] | None = None) -> Iterator[tuple[Row, str]]:
    """Yields the rows at ``indices`` (all by default), each with its name for messages: its file and number."""
    indices = range(len(rows)) if indices is None else indices
    return ((row, row_name(source, index)) for index, row in zip(indices, iterate(rows.select(indices)), strict=True))


def iterate(rows: "datasets.Dataset") -> Iterator[Row]:
    """Yields rows, many at a time: `datasets` takes a hundred times as long for one by one."""
    for batch in rows.iter(1000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def require_text(value: object, column: str, where: str, way_out: str = "fill it in or remove the row") -> str:
    """Returns a value that is a text and not blank.

    Raises:
        ValueError: "`where`: `column` must be a text that is not empty, got None; way out.", with the type of a value that is no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: `{column}` must be a text that is not empty, {not_text(value, way_out)}.")
    return value


def held_out(texts: Sequence[str], share: float, seed: int) -> list[bool]:
    """Tells for each row whether it is held out. The hash of its text decides, so equal texts stay together whatever other rows there are."""
    return [int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:8]) < share * 2**64 for text in texts]


def folded(question: object) -> str:
    """Returns a question without white space and case, for comparison."""
    return "".join(str(question).casefold().split())
