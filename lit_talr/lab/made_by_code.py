"""Base of the data modules whose rows are made by code."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lit_talr.data.example import Example, Split
from lit_talr.domains.base import DomainDataModule
from lit_talr.utils.errors import check_in, check_least

SPLITS: Sequence[Split] = ("train",) * 12 + ("val",) * 2 + ("test",) * 2
MOST_ROWS = 1_000_000
"""Rows of a split at most, which take some minutes and gigabytes."""


@dataclass(eq=False, repr=False)
class MadeByCode(DomainDataModule):
    """A data module whose rows are drawn; it needs no download, and its rows are the same on every machine.

    Args:
        train_size: Rows for training, from 1 to 1,000,000.
        val_size: Rows for validation, from 1 to 1,000,000.
        test_size: Rows for testing, from 1 to 1,000,000.
        seed: Selects the rows of training, at least 0; validation and test are the same for every seed.
    """

    train_size: int = 4096
    val_size: int = 64
    test_size: int = 64
    seed: int = 0
    license = "Apache-2.0 (made by this package)"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_size", "val_size", "test_size"):
            check_in(name, getattr(self, name), f"[1, {MOST_ROWS}]", "rows are made, and kept, in memory")
        check_least("seed", self.seed, 0)

    def examples(self, split: Split) -> Sequence[Example]:
        return list(islice(self.draw_examples(split), getattr(self, f"{split}_size")))

    @abstractmethod
    def draw_examples(self, split: Split) -> Iterator[Example]:
        """Draws the rows of a split, without end; a larger size appends rows and changes none."""


def split_by_hash(key: str) -> Split:
    """Assigns a key to a split, by its hash alone; twelve of sixteen are for training."""
    return SPLITS[hashlib.sha256(key.encode()).digest()[0] % len(SPLITS)]
