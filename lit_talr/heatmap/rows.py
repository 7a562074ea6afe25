"""The examples that are shown, as tokens."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lit_talr.data.encoder import Encoded
from lit_talr.data.example import Split
from lit_talr.data.token_cache import encode_row
from lit_talr.domains.base import DomainDataModule
from lit_talr.utils.errors import check_least


class ShownRow(NamedTuple):
    """An example of the page."""

    number: int  # in its split
    encoded: Encoded


def read_rows(data: DomainDataModule, split: Split, numbers: Sequence[int] | None, num_examples: int) -> list[ShownRow]:
    """Encode the requested rows, in the order of the split; rows after the last of them are not read.

    Args:
        data: The examples.
        split: Their split.
        numbers: Row numbers from 0, as in the answers of the run: in training and validation, rows that are too long are not counted.
        num_examples: How many rows from the first, where no numbers are given.

    Raises:
        ValueError: For numbers that are not in the split, or twice in the list, a row that cannot be encoded, and a split without rows.
    """
    check_least("num_examples", num_examples, 1)
    if numbers is not None and (not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0):
        raise ValueError(f"`rows` must be different row numbers from 0, such as [0,3], got {list(numbers)}.")
    wanted = range(num_examples) if numbers is None else sorted(numbers)
    rows, count = [], 0
    for row in encode_rows(data, split):
        count = row.number + 1
        if row.number in wanted:
            rows.append(row)
        if count > wanted[-1]:
            break
    if not count:
        raise ValueError(f"There is no {split} row to show; give another `--split`.")
    if numbers is not None and len(rows) < len(wanted):
        missing = min(set(wanted) - {row.number for row in rows})
        raise ValueError(f"`rows`: there is no {split} row {missing} that can be shown; there are {count}, numbered from 0.")
    return rows


def encode_rows(data: DomainDataModule, split: Split) -> Iterator[ShownRow]:
    """Encode all rows that fit; in ``test`` a row that is too long has a number too, since it counts as a wrong answer."""
    number = 0
    for example in data.examples(split):
        row = encode_row(data.encoder, example)
        if isinstance(row, Encoded):
            yield ShownRow(number, row)
        number += isinstance(row, Encoded) or split == "test"
