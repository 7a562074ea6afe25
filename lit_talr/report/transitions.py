"""Items that a run answers wrong and its base model right, and the other way round."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.items import KEY, Answers
from lit_talr.report.runs import Row
from lit_talr.report.statistics import mean_interval
from lit_talr.report.worlds import AllAnswers, World

KINDS = ("lost", "gained", "true_lost", "true_gained")
TRANSITIONS = ["point", "variant", "remedy", "source", "rate", "alpha", "score", "suite", "items", "seeds"]
TRANSITIONS += [f"{kind}{end}" for kind in KINDS for end in ("", "_lower", "_upper")]
CHANGED = ["name", "score", *KEY, "before", "after"]


class Pair(NamedTuple):
    """The answers of a run and of its base model to the same items."""

    name: str
    score: str
    keys: pd.DataFrame
    groups: np.ndarray
    before: np.ndarray
    after: np.ndarray


def pairs_of(world: World, answers: AllAnswers, score: str) -> Iterator[tuple[int, list[Pair]]]:
    """The index of each point of a variant but the base model, with its runs; a point is left out where a run or its base has other items, or none."""
    for index, point in enumerate(world.points[1:], 1):
        found = [pair for name in point.names if (pair := pair_of(name, score, world, answers)) is not None]
        if len(found) == len(point.names) and all(pair.keys.equals(found[0].keys) for pair in found):
            yield index, found


def pair_of(name: str, score: str, world: World, answers: AllAnswers) -> Pair | None:
    after: Answers | None = answers.get((name, score))
    own = answers.get((name, "general of the base")) if score == "general" else None
    before = own or answers.get((world.points[0].names[0], score))
    same = before is not None and after is not None and before.keys.equals(after.keys)
    return Pair(name, score, after.keys, after.groups, before.values, after.values) if same and before and after else None


def by_guessing(pair: Pair, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of a suite's items that two models which guess independently lose by chance, and gain: the same number, as a value for each item.

    Of n items with k choices each, of which the base model answers the share a right and the run the share b::

        by chance = (1 - a) / (k - 1) (1 - b)

    since a model that knows an item or guesses evenly among k choices, and is wrong on the share 1 - a, was lucky on (1 - a) / (k - 1) of the items. Where
    items have different numbers of choices, 1 / (k - 1) is their mean. It is 0 for answers that a model writes.

    Source: Harmon, Hochlehnert, Bethge and Prabhu (2025, arXiv 2510.17776) subtract what guessing is expected to contribute, from both accuracies and k, under
    this model of knowing or guessing. The formula is derived here from that description; we could not compare it with theirs letter by letter. Nothing is cut
    off at 0, so that an interval can tell whether anything is left. Guesses of a model and its fine-tuned child are not independent, so this subtracts too
    much rather than too little.

    Args:
        pair: Answers.
        odds: ``[num_items]``, 1 / (k - 1) for each item; 0 for answers that the model writes.

    Returns:
        The share, ``[num_items]`` with the same value in each suite; and the same as one term for each item, whose mean in the suite is the share, and whose
        spread is that of the share (its derivative by both accuracies).
    """
    sizes = np.bincount(pair.groups)
    a, b, h = (np.bincount(pair.groups, values) / sizes for values in (pair.before, pair.after, odds))
    a, b, h = (values[pair.groups] for values in (a, b, h))
    share = h * (1 - a) * (1 - b)
    return share, share - h * ((1 - b) * (pair.before - a) + (1 - a) * (pair.after - b))


def transition_rows(world: World, answers: AllAnswers, odds: dict[str, np.ndarray]) -> Iterator[Row]:
    """A row for each point and suite, for the domain and for the mean over general suites: shares of items that are lost and gained, means over seeds.

    ``true_lost`` and ``true_gained`` are without the transitions by guessing; they are empty where the answers do not say how many choices an item has.
    """
    for score in ("domain", "general"):
        for index, pairs in pairs_of(world, answers, score):
            values = item_values(pairs, odds)
            groups, suites = pairs[0].groups, pairs[0].keys["suite"].to_numpy()
            point = world.points[index].row
            about = {name: point[name] for name in TRANSITIONS[:6]} | {"score": score, "seeds": len(pairs)}
            yield about | {"suite": None, "items": len(groups)} | shares(values, groups)
            for suite in dict.fromkeys(suites) if score == "general" else ():
                own = suites == suite
                yield about | {"suite": suite, "items": int(own.sum())} | shares({kind: each[own] for kind, each in values.items()}, np.zeros(own.sum(), int))


def item_values(pairs: Sequence[Pair], odds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each kind's value for each item, means over runs."""
    values: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for pair in pairs:
        lost, gained = pair.before * (1 - pair.after), (1 - pair.before) * pair.after
        own = odds.get(f"{pair.name}/{pair.score}", np.full(len(lost), np.nan))
        guessed = by_guessing(pair, own)[1]
        for kind, each in zip(KINDS, (lost, gained, lost - guessed, gained - guessed), strict=True):
            values[kind].append(each)
    return {kind: np.mean(each, axis=0) for kind, each in values.items()}


def shares(values: dict[str, np.ndarray], groups: np.ndarray) -> Row:
    """The mean over suites of each kind, with its interval over items."""
    row: Row = {}
    sizes = np.bincount(groups)
    for kind, each in values.items():
        if np.isnan(each).any():
            continue
        least = 0.0 if each.min() >= 0 and each.max() <= 1 else -1.0
        row[kind] = float((np.bincount(groups, each) / sizes).mean())
        row[f"{kind}_lower"], row[f"{kind}_upper"] = mean_interval(each, groups, least)
    return row


def odds_of(answers: pd.DataFrame) -> dict[str, np.ndarray]:
    """1 / (k - 1) for each answer of a run and score, whose name is ``run/score``; NaN where the number of choices k is not known."""
    return {f"{name}/{score}": (chance / (1 - chance)).to_numpy(float) for (name, score), chance in answers.groupby(["name", "score"], sort=False)["chance"]}


def changed_items(world: World, answers: AllAnswers) -> Iterator[pd.DataFrame]:
    """For each run the items that it answers right and its base model wrong, or the other way round."""
    for score in ("domain", "general"):
        for _, pairs in pairs_of(world, answers, score):
            for pair in pairs:
                table = pair.keys.assign(name=pair.name, score=score, before=pair.before == 1, after=pair.after == 1)
                yield table[table["before"] != table["after"]][CHANGED]
