"""Answers item by item: the intervals are computed from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.statistics import bootstrap_means
from lit_talr.utils.files import read_json_lines

KEY = ["suite", "id", "truth"]
"""The columns that identify an item: its suite, number and right answer."""


def read_items(file: Path) -> pd.DataFrame | None:
    """Read the answers in a file: ``KEY``, and whether each is ``correct``, also for a lenient reader (``ExactMatch`` defines it), sorted by ``KEY``.

    Suites that do not count in the mean are left out. None where there is no file, or no answer counts.

    Raises:
        ValueError: For a file that is incomplete, naming it.
    """
    if not file.is_file():
        return None
    try:
        items = pd.DataFrame([read_item(row) for row in read_json_lines(file)], columns=[*KEY, "correct", "lenient", "counts"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file.name} is not a whole file of answers") from error
    if items.empty or items.duplicated(["suite", "id"]).any():
        raise ValueError(f"{file.name} is empty, or has an item twice")
    items = items[items["counts"]].sort_values(KEY, ignore_index=True)
    return None if items.empty else items


def read_item(row: dict[str, Any]) -> tuple[str, str, str, bool, bool | None, bool]:
    for name in ("correct", "lenient"):
        if not isinstance(row.get(name, name == "lenient"), bool):
            raise TypeError(f"`{name}` must be true or false")
    return str(row.get("suite", "")), f"{row['id']:>12}", str(row.get("truth")), row["correct"], row.get("lenient"), bool(row.get("counts", True))


def suite_means(items: pd.DataFrame, column: str = "correct") -> dict[str, float]:
    """The mean of each suite; empty where an answer does not have the column."""
    return {} if items[column].isna().any() else items[column].astype(float).groupby(items["suite"]).mean().to_dict()


def mean_score(items: pd.DataFrame) -> float:
    """The mean over suites of each suite's mean."""
    return float(np.mean([*suite_means(items).values()]))


class Draws(NamedTuple):
    """Bootstrap draws of a score, and the items that they are over."""

    keys: pd.DataFrame
    values: np.ndarray

    def minus(self, other: "Draws | None") -> "Draws | None":
        """Paired draws of the difference; None where the items are not the same."""
        return None if other is None or not other.keys.equals(self.keys) else Draws(self.keys, self.values - other.values)


def draw_means(items: pd.DataFrame) -> Draws:
    """Bootstrap draws of the mean score; items are drawn within their suite."""
    return Draws(items[KEY], bootstrap_means(items["correct"].to_numpy(float), items["suite"].factorize()[0]))


def average(parts: Sequence[Draws | None]) -> Draws | None:
    """Draws of the mean over models, which are means of draws; None unless all models answered the same items."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or not all(part.keys.equals(known[0].keys) for part in known):
        return None
    return Draws(known[0].keys, np.mean([part.values for part in known], axis=0))
