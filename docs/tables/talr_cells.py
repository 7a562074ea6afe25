"""The runs of docs/when_talr_helps, and differences between two remedies in one cell of it: a variant of the data at one rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.items import AllAnswers, Answers, average, run_answers
from lit_talr.report.matched import general_at, percentiles
from lit_talr.report.tables import read_tables
from lit_talr.report.worlds import resampled_means

SCORES = ("domain", "general")
STANDARD = ("standard", "scaled")
"""The remedies that are Standard, at rates of their own."""
SAME = ["base_model", "domain_items", "general_items"]
"""The columns in which two runs must agree to be subtracted."""


class Point(NamedTuple):
    """The runs of all seeds of one remedy, at one rate, on one variant of the data."""

    variant: str
    remedy: str
    rate: float | None  # None for the base model


class Difference(NamedTuple):
    """A difference with its 95 % interval over items."""

    value: float
    lower: float
    upper: float
    num_seeds: int = 1

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.lower > 0 or self.upper < 0


class Matched(NamedTuple):
    """A general score minus Standard's at the same domain score."""

    difference: Difference
    reached: bool  # whether Standard has that domain score at any rate; else the difference is to its best one


@dataclass(frozen=True)
class Cells:
    """The runs of the study, and their tokens."""

    runs: pd.DataFrame
    tokens: pd.DataFrame
    answers: AllAnswers

    def seeds(self, point: Point) -> dict[int, "pd.Series[object]"]:
        """The runs of a point by seed; the base model's has the seed -1."""
        runs = self.runs[(self.runs["variant"] == point.variant) & (self.runs["remedy"] == point.remedy)]
        runs = runs[runs["rate"].isna()] if point.rate is None else runs[np.isclose(runs["rate"].astype(float), point.rate)]
        return {-1 if pd.isna(run["seed"]) else int(run["seed"]): run for _, run in runs.iterrows()}

    def by_seed(self, point: Point, other: Point) -> dict[int, dict[str, Answers]]:
        """Item by item, how much more right answers a point has than another, by seed and score; only of runs that can be compared."""
        these, those = self.seeds(point), self.seeds(other)
        differences: dict[int, dict[str, Answers]] = {}
        for seed in sorted(these.keys() & those.keys()):
            if not all(these[seed][name] == those[seed][name] for name in SAME):
                continue
            one, two = (str(runs[seed]["name"]) for runs in (these, those))
            pairs = {score: (self.answers.get((one, score)), self.answers.get((two, score))) for score in SCORES}
            parts = {score: mine.minus(theirs) for score, (mine, theirs) in pairs.items() if mine is not None}
            known = {score: part for score, part in parts.items() if part is not None}
            differences |= {seed: known} if len(known) == len(SCORES) else {}
        return differences

    def pooled(self, point: Point, other: Point) -> dict[str, Difference]:
        """The means over seeds by score; empty without runs."""
        by_seed = self.by_seed(point, other)
        means = {score: average([parts[score] for parts in by_seed.values()]) for score in SCORES}
        return {score: difference(mean, len(by_seed)) for score, mean in means.items() if mean is not None}

    def mean(self, point: Point, seeds: Sequence[int]) -> dict[str, Answers] | None:
        """Mean answers over these seeds by score; None where one is missing."""
        runs = self.seeds(point)
        if not set(seeds) <= runs.keys():
            return None
        means = {score: average([self.answers.get((str(runs[seed]["name"]), score)) for seed in seeds]) for score in SCORES}
        return {score: mean for score, mean in means.items() if mean is not None} if None not in means.values() else None

    def points(self, variant: str) -> list[Point]:
        """The points of a variant but the base model, by remedy and rising rate."""
        runs = self.runs[(self.runs["variant"] == variant) & self.runs["rate"].notna()]
        return sorted({Point(variant, str(name), float(rate)) for name, rate in zip(runs["remedy"], runs["rate"], strict=True)})

    def matched(self, point: Point) -> Matched | None:
        """The general score minus the one that Standard has where it first reaches the same domain score.

        The seeds are those that Standard has at two rates at least. Its curve goes from the base model over the rates that have all of them, straight between
        two rates. The interval is a bootstrap over items, in which the place of the match moves too.
        """
        standard = sorted((own for own in self.points(point.variant) if own.remedy in STANDARD), key=lambda own: own.rate or 0.0)
        theirs = [set(self.seeds(own)) for own in standard]
        seeds = sorted(seed for seed in self.seeds(point) if sum(seed in own for own in theirs) > 1)
        base, ours = self.mean(Point(point.variant, "base", None), [-1]), self.mean(point, seeds)
        curve = [means for own in standard if (means := self.mean(own, seeds)) is not None] if seeds else []
        if base is None or ours is None or len(curve) < 2:
            return None
        scores = resampled_scores([base, *curve, ours])
        gaps, reached = gaps_at_match(scores)
        return Matched(Difference(float(gaps[0]), *percentiles(gaps[1:]), len(seeds)), bool(reached[0]))


def difference(answers: Answers, num_seeds: int) -> Difference:
    """The difference of two scores: the mean over suites, with its interval."""
    value = float(np.mean([answers.values[answers.groups == group].mean() for group in np.unique(answers.groups)]))
    return Difference(value, *answers.interval(), num_seeds)


def resampled_scores(points: Sequence[dict[str, Answers]]) -> np.ndarray:
    """``[1 + RESAMPLES, number of points, 2]`` domain and general scores: the measured ones, then those of resampled items."""
    scores = [resampled_means([point[score] for point in points], score) for score in SCORES]
    if scores[0] is None or scores[1] is None:
        raise ValueError("the points of a variant must have answers to the same items")
    return np.stack([scores[0], scores[1]], axis=-1)


def gaps_at_match(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last point's general score minus that of the curve before it, where the curve first reaches its domain score; whether it does.

    Args:
        scores: ``[number of resamples, number of points, 2]``.
    """
    domain, general = scores[..., 0], scores[..., 1]
    at_match, reached = general_at(domain[:, :-1], general[:, :-1], domain[:, -1])
    return general[:, -1] - at_match, reached


def read_cells(folder: Path) -> Cells:
    """Read the study's tables."""
    tables = read_tables(folder)
    return Cells(tables.results, tables.tokens, run_answers(tables.answers))
