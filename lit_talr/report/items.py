"""Answers item by item: the intervals are computed from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lit_talr.metrics.wordings import suite_of
from lit_talr.report.statistics import Interval, mean_interval
from lit_talr.utils.files import read_json_lines

KEY = ["suite", "id", "truth"]
"""The columns that identify an item: its suite, number and right answer."""
COLUMNS = [*KEY, "correct", "chance", "lenient", "counts"]


def read_items(file: Path) -> pd.DataFrame | None:
    """Read the answers in a file: ``KEY``, and whether each is ``correct``, also for a lenient reader (``ExactMatch`` defines it), sorted by ``KEY``.

    ``chance`` is the probability that a guess is right: 0 for an answer that the model writes, missing in rows of the harness by an earlier version.
    Suites that do not count in the mean are left out. None where there is no file, or no answer counts.

    Raises:
        ValueError: For a file that is incomplete, naming it.
    """
    if not file.is_file():
        return None
    try:
        items = pd.DataFrame([read_item(row) for row in read_json_lines(file)], columns=COLUMNS)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file.name} is not a whole file of answers") from error
    if items.empty or items.duplicated(["suite", "id"]).any():
        raise ValueError(f"{file.name} is empty, or has an item twice")
    items = items[items["counts"]].sort_values(KEY, ignore_index=True)
    return None if items.empty else items


def read_item(row: dict[str, Any]) -> tuple[str, str, str, bool, float | None, bool | None, bool]:
    for name in ("correct", "lenient"):
        if not isinstance(row.get(name, name == "lenient"), bool):
            raise TypeError(f"`{name}` must be true or false")
    chance = row.get("chance", 0.0 if "extracted" in row else None)
    if chance is not None and not 0 <= chance < 1:
        raise ValueError("`chance` must lie in [0, 1)")
    return str(row.get("suite", "")), f"{row['id']:>12}", str(row.get("truth")), row["correct"], chance, row.get("lenient"), bool(row.get("counts", True))


def suite_means(items: pd.DataFrame, column: str = "correct") -> dict[str, float]:
    """The mean of each suite, over its wordings too; empty where an answer does not have the column."""
    return {} if items[column].isna().any() else items[column].astype(float).groupby(items["suite"].map(suite_of)).mean().to_dict()


def mean_score(items: pd.DataFrame) -> float:
    """The mean over suites of each suite's mean."""
    return float(np.mean([*suite_means(items).values()]))


class Answers(NamedTuple):
    """How right each item was answered: 1 or 0, a mean over models, or the difference of two such numbers; a row for each wording of an item."""

    keys: pd.DataFrame
    groups: np.ndarray  # the number of each answer's suite, whatever the wording
    values: np.ndarray
    least: float = 0.0  # the least that a value can be
    odds: np.ndarray | None = None  # 1 / (k - 1) for an item with k choices, 0 for an answer that the model wrote; None where that is not known
    items: np.ndarray | None = None  # the number of each answer's item, where there are several wordings; None: each is an item

    def has_items_of(self, other: "Answers") -> bool:
        """Whether both are answers to the same items, which is quick where they share one table of keys."""
        return self.keys is other.keys or self.keys.equals(other.keys)

    def minus(self, other: "Answers | None") -> "Answers | None":
        """The difference item by item; None where the items are not the same."""
        if other is None or not self.has_items_of(other):
            return None
        return self._replace(values=self.values - other.values, least=-1.0, odds=None)

    def by_item(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means over wordings of a value of each answer, which are independent of each other, and the number of each item's suite."""
        if self.items is None:
            return values, self.groups
        return np.bincount(self.items, values) / np.bincount(self.items), self.groups[np.unique(self.items, return_index=True)[1]]

    def interval(self) -> Interval:
        """The 95 % interval of the mean over suites."""
        return mean_interval(*self.by_item(self.values), self.least)


AllAnswers = Mapping[tuple[str, str], Answers]
"""Answers by the name of a run and a score."""


def answers_of(items: pd.DataFrame) -> Answers:
    """The answers in a table of items."""
    suites = items["suite"].map(suite_of)
    numbers = None if (suites == items["suite"]).all() else pd.MultiIndex.from_arrays([suites, items["id"]]).factorize()[0]
    return Answers(items[KEY], suites.factorize()[0], items["correct"].to_numpy(float), odds=odds_of(items["chance"].to_numpy(float)), items=numbers)


def odds_of(chance: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(chance).any() else chance / (1 - chance)


def run_answers(answers: pd.DataFrame) -> AllAnswers:
    """The answers of each run by score; those to the same items share one table of keys, so that comparing their items takes no time."""
    right, chance = answers["correct"].to_numpy(float), answers["chance"].to_numpy(float)
    item = answers.groupby(KEY, sort=False, dropna=False).ngroup().to_numpy()
    shared: dict[bytes, Answers] = {}
    found: dict[tuple[str, str], Answers] = {}
    for (name, score), rows in answers.groupby(["name", "score"], sort=False).indices.items():
        items = item[rows].tobytes()
        if items not in shared:
            shared[items] = answers_of(answers.iloc[rows].reset_index(drop=True).astype(dict.fromkeys(KEY, object)))
        found[str(name), str(score)] = shared[items]._replace(values=right[rows], odds=odds_of(chance[rows]))
    return found


def average(parts: Sequence[Answers | None]) -> Answers | None:
    """The mean over models, item by item; None unless all models answered the same items."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or not all(map(known[0].has_items_of, known)):
        return None
    return known[0]._replace(values=np.mean([part.values for part in known], axis=0))
