"""The points of a variant that can be set against its base model, with the answers behind their scores."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.items import AllAnswers, Answers, average
from lit_talr.report.runs import point_name, scientific
from lit_talr.report.tables import Tables
from lit_talr.report.volumes import by_variant

SAME = ["base_model", "domain_items", "general_items"]
"""The columns in which a run must agree with its base model."""
RESAMPLES = 2000


class Point(NamedTuple):
    """All runs of a point, or the base model's run."""

    row: dict[str, Any]  # of the table of means
    names: list[str]  # of its runs
    kl: float  # mean of ``drift/kl``; NaN where it is not known
    answers: dict[str, Answers | None]  # of ``domain`` and ``general``, means over the runs

    @property
    def line(self) -> str:
        """The name of its trajectory: the remedy, for a merge with the run that it came from, for runs that differ from most with the difference."""
        variant, source, rate, alpha = (None if pd.isna(self.row[key]) else self.row[key] for key in ("variant", "source", "rate", "alpha"))
        remedy: str = self.row["remedy"]
        name = " ".join(word for word in (remedy, source and f"of {source}", scientific(rate) if self.merged and rate else None) if word)
        return name + str(self.row["point"]).removeprefix(point_name(variant, remedy, source, rate, alpha))

    @property
    def merged(self) -> bool:
        return not self.row["trained"] and self.row["remedy"] != "base"


class World(NamedTuple):
    """A variant: its base model, and all points on the same items that began with it."""

    variant: str
    points: list[Point]  # the base model first

    def trajectories(self) -> dict[str, list[int]]:
        """For each remedy the indices of its points, from the base model on: by rising rate, or for the merges of a run by rising alpha up to that run."""
        found: dict[str, list[int]] = {}
        for index, point in enumerate(self.points[1:], 1):
            found.setdefault(point.line, []).append(index)
        for indices in found.values():
            first = self.points[indices[0]]
            key = "alpha" if first.merged else "rate"
            indices.sort(key=lambda index: np.nan_to_num(self.points[index].row[key], nan=np.inf))
            if first.merged:
                merged = first.row["source"], first.row["rate"]
                indices += [i for i, end in enumerate(self.points) if end.row["trained"] and (end.row["remedy"], end.row["rate"]) == merged][:1]
        return {name: [0, *indices] for name, indices in found.items()}

    def scores(self, score: str) -> np.ndarray:
        """``[number of points]``."""
        return np.array([point.row[score] for point in self.points], float)


def read_worlds(tables: Tables, answers: AllAnswers) -> Iterator[World]:
    """The variants that have a base model with a general score; the base model without a variant is that of each that has none."""
    runs = tables.results.assign(**{name: tables.results[name].astype(object).fillna("") for name in SAME})
    if "drift/kl" not in runs:
        runs["drift/kl"] = np.nan
    rows = {str(row["point"]): row for row in tables.means.to_dict("records")}
    bases = by_variant(runs[runs["remedy"].eq("base") & runs["general"].notna()])
    for variant, group in by_variant(runs[runs["remedy"].ne("base") & runs["general"].notna()]).items():
        base = bases.get(variant, bases.get(""))
        if base is None:
            continue
        same = group[(group[SAME] == base[SAME].iloc[0]).all(axis=1)]
        parts = [base[:1], *(part for _, part in same.groupby("point", sort=False))]
        points = [
            Point(rows[part["point"].iloc[0]], [*part["name"]], float(part["drift/kl"].mean(skipna=False)), mean_answers(part["name"], answers))
            for part in parts
        ]
        yield World(variant, [point for point in points if pd.notna(point.row["general"])])


def mean_answers(names: Sequence[str], answers: AllAnswers) -> dict[str, Answers | None]:
    return {score: average([answers.get((name, score)) for name in names]) for score in ("domain", "general")}


def resampled_means(parts: Sequence[Answers | None], score: str) -> np.ndarray | None:
    """``[1 + RESAMPLES, number of parts]`` means over suites: the measured ones, then those of items drawn at random with replacement, within each suite.

    All parts are drawn alike, so that differences between them are paired by item. None where the parts have other items, or one has none.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not all(map(known[0].has_items_of, known)):
        return None
    first = known[0]
    values = np.stack([part.by_item(part.values)[0] for part in known], axis=1)
    groups, by_suite = first.by_item(first.values)[1], []
    for group in np.unique(groups):
        own = values[groups == group]
        by_suite.append(item_counts(f"{score} {group}", len(own)) @ own / len(own))
    means: np.ndarray = np.mean(by_suite, axis=0)
    return means


@lru_cache(maxsize=32)
def item_counts(suite: str, number: int) -> np.ndarray:
    """``[1 + RESAMPLES, number]`` how often each item of a suite is drawn: once each, then at random; the same whenever it is asked."""
    draw = np.random.default_rng([*suite.encode()])
    return np.concatenate([np.ones((1, number)), draw.multinomial(number, np.full(number, 1 / number), RESAMPLES)])
