"""Answers item by item: the intervals are computed from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_talr.report.statistics import bootstrap_means, grouped_mean
from lit_talr.utils.files import read_json_lines

Key = tuple[str, str, str]
"""Suite, number and right answer of an item."""


class Items:
    """Which items one model answered correctly, each suite a group of its own.

    Args:
        keys: ``[num_items]``, sorted and different.
        correct: ``[num_items]``, 1 or 0.
        lenient: Likewise for a lenient reader (``ExactMatch`` defines it); None where the answers do not have it.
    """

    def __init__(self, keys: Sequence[Key], correct: Sequence[float], lenient: Sequence[float] | None = None) -> None:
        self.keys = tuple(keys)
        self.correct = np.array(correct, dtype=float)
        self.lenient = None if lenient is None else np.array(lenient, dtype=float)
        self.suites = sorted({suite for suite, *_ in self.keys})
        self.groups = np.array([self.suites.index(suite) for suite, *_ in self.keys], dtype=int)

    @property
    def mean(self) -> float:
        """The mean over suites of each suite's mean."""
        return grouped_mean(self.correct, self.groups)

    def lenient_means(self) -> dict[str, float]:
        """The lenient mean of each suite; empty where the answers do not have it."""
        if self.lenient is None:
            return {}
        return {suite: float(self.lenient[self.groups == number].mean()) for number, suite in enumerate(self.suites)}

    def draws(self) -> "Draws":
        """Bootstrap draws of the mean."""
        return Draws(self.keys, bootstrap_means(self.correct, self.groups))


class Draws(NamedTuple):
    """Bootstrap draws of a score, and the items that they are over."""

    keys: tuple[Key, ...]
    values: np.ndarray

    def minus(self, other: "Draws | None") -> "Draws | None":
        """Paired draws of the difference; None where the items are not the same."""
        return None if other is None or other.keys != self.keys else Draws(self.keys, self.values - other.values)


def average(parts: Sequence[Draws | None]) -> Draws | None:
    """Draws of the mean over models, which are means of draws; None unless all models answered the same items."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({part.keys for part in known}) > 1:
        return None
    return Draws(known[0].keys, np.mean([part.values for part in known], axis=0))


def read_items(file: Path) -> Items | None:
    """Read the answers in a file, of suites that count in the mean; None where there is no file, or none counts.

    Raises:
        ValueError: For a file that is incomplete, naming it.
    """
    if not file.is_file():
        return None
    try:
        rows = read_json_lines(file)
        ids = {(row.get("suite"), row["id"]) for row in rows}
        items = sorted(read_item(row) for row in rows if row.get("counts", True))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file.name} is not a whole file of answers") from error
    if len(ids) != len(rows) or not rows:
        raise ValueError(f"{file.name} is empty, or has an item twice")
    if not items:
        return None
    keys, correct, lenient = zip(*items, strict=True)
    return Items(keys, correct, None if None in lenient else lenient)


def read_item(row: dict[str, Any]) -> tuple[Key, bool, bool | None]:
    for name in ("correct", "lenient"):
        if not isinstance(row.get(name, name == "lenient"), bool):
            raise TypeError(f"`{name}` must be true or false")
    return (str(row.get("suite", "")), f"{row['id']:>12}", str(row.get("truth"))), row["correct"], row.get("lenient")
