"""Rows as a table of `datasets`, made block by block: in memory there is the table and one block."""

import json
import secrets
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_talr.utils.errors import first_line

if TYPE_CHECKING:
    import datasets
    import pyarrow

BLOCK = 4096
"""Rows of a block."""
UNREADABLE = (ValueError, TypeError, NotImplementedError, OverflowError, RecursionError)  # Arrow's errors are the first three
PLAIN = (str, int, float, bool, type(None))


def row_name(source: str, index: int) -> str:
    """The name of a row in messages; rows count from 1."""
    return f"{source}: row {index + 1}"


def make_table(path: Path, rows: Iterable[dict[str, Any]]) -> "datasets.Dataset":
    """Rows as a table; a key that a row lacks is None there.

    A column that Arrow has no type for, such as one of texts and numbers, is stored as JSON. So is one of objects, whose keys differ: Arrow would give every
    object the keys of all.

    Raises:
        ValueError: For a value that neither can hold, by file and row.
    """
    import datasets
    import pyarrow

    columns: dict[str, Column] = {}
    iterator, start = iter(rows), 0
    while block := list(islice(iterator, BLOCK)):
        for name in dict.fromkeys(name for row in block for name in row):
            if name not in columns:
                columns[name] = Column(path, [pyarrow.nulls(start)] * bool(start))
        for name, column in columns.items():
            column.add([row.get(name) for row in block], start)
        start += len(block)
    arrays = {name: column.whole() for name, column in columns.items()}
    plain = datasets.Features.from_arrow_schema(pyarrow.schema([(name, array.type) for name, array in arrays.items()]))
    features = datasets.Features({name: datasets.Json() if column.is_json else plain[name] for name, column in columns.items()})
    table = datasets.table.table_cast(pyarrow.table(arrays), features.arrow_schema)
    name = secrets.token_hex(8)  # or `datasets` would write the whole table into memory to make one
    return datasets.Dataset(datasets.table.InMemoryTable(table), datasets.DatasetInfo(features=features), fingerprint=name)


class Column:
    """A column as Arrow arrays, one for each block of rows."""

    def __init__(self, path: Path, blocks: "list[pyarrow.Array]") -> None:
        self.path, self.blocks, self.is_json = path, blocks, False
        self.type = blocks[0].type if blocks else None

    def add(self, values: list[Any], start: int) -> None:
        """Adds a block, whose first row has the index ``start``."""
        import pyarrow

        if not self.is_json and not any(not isinstance(value, PLAIN) and holds_objects(value) for value in values):
            try:
                block = pyarrow.array(values)
                self.type = block.type if self.type is None else common_type(self.type, block.type)
                self.blocks.append(block)
                return
            except UNREADABLE:
                pass
        if not self.is_json:
            self.is_json, at = True, 0
            for index, block in enumerate(self.blocks):
                self.blocks[index] = self.as_texts(block.to_pylist(), at)
                at += len(block)
        self.blocks.append(self.as_texts(values, start))

    def as_texts(self, values: Sequence[Any], start: int) -> "pyarrow.Array":
        import datasets
        import pyarrow

        feature = datasets.Json()
        return pyarrow.array([as_json(self.path, start + index, value, feature) for index, value in enumerate(values)], pyarrow.string())

    def whole(self) -> "pyarrow.ChunkedArray":
        import pyarrow

        try:
            return pyarrow.chunked_array([block.cast(pyarrow.string() if self.is_json else self.type) for block in self.blocks])
        except UNREADABLE:  # whole numbers that are too large for a column of fractions
            at, self.is_json = 0, True
            for index, block in enumerate(self.blocks):
                self.blocks[index] = self.as_texts(block.to_pylist(), at)
                at += len(block)
            return pyarrow.chunked_array(self.blocks)


def common_type(one: "pyarrow.DataType", other: "pyarrow.DataType") -> "pyarrow.DataType":
    """The type that holds the values of both.

    Raises:
        ValueError, TypeError: Arrow's, if there is none.
    """
    import pyarrow

    if one == other:
        return one
    return pyarrow.unify_schemas([pyarrow.schema([("", kind)]) for kind in (one, other)], promote_options="permissive").field(0).type


def holds_objects(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(holds_objects, value)))


def as_json(path: Path, index: int, value: Any, feature: "datasets.Json") -> str:
    """Encodes a cell here, since `datasets` would take a text that looks like JSON, such as "7", for JSON."""
    try:
        text = json.dumps(value)
        if feature.decode_example(text) == value:
            return text
        problem = "it holds a value that JSON does not keep"
    except UNREADABLE as error:
        problem = first_line(error)
    raise ValueError(f"{row_name(str(path), index)} cannot be read ({problem}: {value!r:.60}); correct it or remove the row.")
