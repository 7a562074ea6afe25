"""Answers item by item: what the intervals are computed from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lit_talr.report.statistics import bootstrap_means, grouped_mean

Key = tuple[str, str]


class Items:
    """Which items one model answered rightly, each suite a group of its own.

    Args:
        keys: ``[num_items]`` suite and id of each, sorted and different.
        correct: ``[num_items]``, 1 or 0.
    """

    def __init__(self, keys: Sequence[Key], correct: Sequence[float]) -> None:
        self.keys = tuple(keys)
        self.correct = np.array(correct, dtype=float)
        names = sorted({suite for suite, _ in self.keys})
        self.groups = np.array([names.index(suite) for suite, _ in self.keys])

    @property
    def suites(self) -> list[str]:
        return sorted({suite for suite, _ in self.keys})

    @property
    def mean(self) -> float:
        """Over suites of each suite's mean."""
        return grouped_mean(self.correct, self.groups)

    def draws(self) -> "Draws":
        """Bootstrap draws of the mean."""
        return Draws(self.keys, bootstrap_means(self.correct, self.groups))

    def of_suites(self, names: Sequence[str]) -> "Items":
        kept = [index for index, (suite, _) in enumerate(self.keys) if suite in names]
        return Items([self.keys[index] for index in kept], [self.correct[index] for index in kept])


class Draws(NamedTuple):
    """Bootstrap draws of a score, and the items that they are over."""

    keys: tuple[Key, ...]
    values: np.ndarray

    def minus(self, other: "Draws | None") -> "Draws | None":
        """Paired draws of the difference; None where the items are not the same."""
        return None if other is None or other.keys != self.keys else Draws(self.keys, self.values - other.values)


def average(parts: Sequence[Draws | None]) -> Draws | None:
    """Of the mean of several models' scores; None unless all answered the same items. A mean of draws is a draw of the mean."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({part.keys for part in known}) > 1:
        return None
    return Draws(known[0].keys, np.mean([part.values for part in known], axis=0))


def read_items(file: Path) -> Items | None:
    """The answers in a file; None where there is none.

    Raises:
        ValueError: For a file that is not whole, naming it.
    """
    if not file.is_file():
        return None
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        found: dict[Key, float] = {(str(row.get("suite", "")), f"{row['id']:>12}"): right(row["correct"]) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file.name} is not a whole file of answers") from error
    if len(found) != len(rows) or not rows:
        raise ValueError(f"{file.name} is empty, or has an item twice")
    keys = sorted(found)
    return Items(keys, [found[key] for key in keys])


def lenient_means(file: Path) -> dict[str, float]:
    """By suite the share of answers that are right when read leniently, as far as its rows say so."""
    found: dict[str, list[float]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        row = json.loads(line)
        if "lenient" in row:
            found.setdefault(str(row.get("suite", "")), []).append(right(row["lenient"]))
    return {suite: float(np.mean(values)) for suite, values in found.items()}


def right(value: Any) -> float:
    if not isinstance(value, bool):
        raise TypeError("`correct` must be true or false")
    return float(value)


def counting(items: Items, mean: float) -> Items | None:
    """The items of the suites whose mean this is: all, or all but the one that comes from the domain's own source; None for no such choice.

    Then the score is not a mean of right answers (macro-F1 is not), and its interval cannot be had from them.
    """
    choices = [items.suites, *([other for other in items.suites if other != left_out] for left_out in items.suites)]
    parts = (items.of_suites(names) for names in choices if names)
    return next((part for part in parts if abs(part.mean - mean) < 1e-5), None)  # the logged score is float32
