"""Which examples are shown, as tokens."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lit_talr.data.encoding import Encoded
from lit_talr.data.example import Split
from lit_talr.data.token_cache import encode_row
from lit_talr.domains.base import DomainDataModule


class ShownRow(NamedTuple):
    """An example of the page."""

    number: int  # in its split
    encoded: Encoded


def read_rows(data: DomainDataModule, split: Split, numbers: Sequence[int] | None, num_examples: int) -> list[ShownRow]:
    """The rows that were asked for, in the order of the split; rows behind the last of them are not encoded.

    Args:
        data: Whose examples.
        split: Of which split.
        numbers: From 0, as the run numbers its rows: of training and validation those that are too long are not counted.
        num_examples: The first so many, where no numbers are given.

    Raises:
        ValueError: For numbers that are not in the split, or twice in the list, a row that cannot be encoded, and a split without rows.
    """
    if num_examples < 1:
        raise ValueError(f"`num_examples` must be at least 1, got {num_examples}.")
    if numbers is not None and (not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0):
        raise ValueError(f"`rows` must be different row numbers from 0, such as [0,3], got {list(numbers)}.")
    wanted = range(num_examples) if numbers is None else sorted(numbers)
    found, count = [], 0
    for row in encoded_rows(data, split):
        count = row.number + 1
        if row.number in wanted:
            found.append(row)
        if count > wanted[-1]:
            break
    if not found and not count:
        raise ValueError(f"There is no {split} row to show; give another `--split`.")
    if numbers is not None and len(found) < len(wanted):
        missing = min(set(wanted) - {row.number for row in found})
        raise ValueError(f"`rows`: there is no {split} row {missing} that can be shown; there are {count}, numbered from 0.")
    return found


def encoded_rows(data: DomainDataModule, split: Split) -> Iterator[ShownRow]:
    """All that fit, with their numbers; of ``test`` a row that is too long has a number too, since it counts as a wrong answer."""
    number = 0
    for example in data.examples(split):
        row = encode_row(data.encoder, example)
        if isinstance(row, Encoded):
            yield ShownRow(number, row)
        number += isinstance(row, Encoded) or split == "test"
