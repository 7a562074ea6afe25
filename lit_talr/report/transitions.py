"""Items that a run answers wrong and its base model right, and the other way round."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from lit_talr.report.items import KEY, AllAnswers, Answers
from lit_talr.report.runs import Row
from lit_talr.report.statistics import group_intervals, mean_interval
from lit_talr.report.worlds import World

KINDS = ("lost", "gained", "true_lost", "true_gained")
TRANSITIONS = ["point", "variant", "remedy", "source", "rate", "alpha", "score", "suite", "items", "seeds"]
TRANSITIONS += [f"{kind}{end}" for kind in KINDS for end in ("", "_lower", "_upper")]
CHANGED = ["name", "score", *KEY, "before", "after"]


Pair = tuple[Answers, Answers]
"""The answers of a base model and of a run to the same items."""


def pairs_of(world: World, answers: AllAnswers, score: str) -> Iterator[tuple[int, list[Pair]]]:
    """The index of each point of a variant but the base model, with its runs; a point is left out where a run or its base has other items, or none."""
    base = answers.get((world.points[0].names[0], score))
    for index, point in enumerate(world.points[1:], 1):
        own = [answers.get((name, "general of the base")) if score == "general" else None for name in point.names]
        pairs = [(before or base, answers.get((name, score))) for before, name in zip(own, point.names, strict=True)]
        found = [(before, after) for before, after in pairs if before and after and before.has_items_of(after)]
        if len(found) == len(pairs) and all(after.has_items_of(found[0][1]) for _, after in found):
            yield index, found


def by_guessing(before: np.ndarray, after: np.ndarray, odds: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The share of a suite's items that a model loses by guessing alone, or gains: the same number. As a value for each item, whose mean it is.

    Where the base model answers the share a of a suite's items right and the run the share b, of k choices each::

        share = (1 - a) / (k - 1) * (1 - b)

    A model that knows an item or guesses evenly among k choices, and is wrong on the share 1 - a, was lucky on (1 - a) / (k - 1) of the items. Of these,
    another model that guesses independently is wrong on the share 1 - b. Where items have different numbers of choices, 1 / (k - 1) is their mean.

    Source: Harmon, Hochlehnert, Bethge and Prabhu (2025, arXiv 2510.17776) subtract what guessing is expected to contribute, which follows from both
    accuracies and k, from transitions. The formula is derived here from their description; we could not compare it with theirs symbol by symbol. The
    difference is not cut off at 0, so that its interval can contain 0. A model and its fine-tuned child do not guess independently: where they guess alike,
    this subtracts too much.

    Args:
        before: ``[num_items]`` whether the base model is right, 1 or 0.
        after: The same of the run.
        odds: The 1 / (k - 1) of each item; 0 for answers that the model writes.
        groups: The number of each item's suite.

    Returns:
        ``[num_items]``; the mean over a suite is its share, and the spread over items is that of the share as an estimate (its derivatives by a and b).
    """
    sizes = np.bincount(groups)
    a, b, h = ((np.bincount(groups, values) / sizes)[groups] for values in (before, after, odds))
    terms: np.ndarray = h * ((1 - a) * (1 - b) - (1 - b) * (before - a) - (1 - a) * (after - b))
    return terms


def transition_rows(world: World, answers: AllAnswers) -> Iterator[Row]:
    """A row for each point and suite, for the domain and for the mean over general suites: shares of items that are lost and gained, means over seeds.

    ``true_lost`` and ``true_gained`` are without what guessing explains (``by_guessing``); they are empty where the number of choices is not known.
    """
    for score in ("domain", "general"):
        for index, pairs in pairs_of(world, answers, score):
            least = -1.0 if any(after.odds is not None and after.odds.any() for _, after in pairs) else 0.0
            about = {name: world.points[index].row[name] for name in TRANSITIONS[:6]} | {"score": score, "seeds": len(pairs)}
            whole, *suites = shares(item_values(pairs), pairs[0][1], least)
            yield from (about | row for row in (whole, *(suites if score == "general" else ())))


def item_values(pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """Each kind's value for each item, means over runs."""
    lost = np.mean([before.values * (1 - after.values) for before, after in pairs], axis=0)
    gained = np.mean([(1 - before.values) * after.values for before, after in pairs], axis=0)
    guessed = [by_guessing(before.values, after.values, after.odds, after.groups) for before, after in pairs if after.odds is not None]
    if len(guessed) < len(pairs):
        return {"lost": lost, "gained": gained}
    return {"lost": lost, "gained": gained, "true_lost": lost - np.mean(guessed, axis=0), "true_gained": gained - np.mean(guessed, axis=0)}


def shares(values: dict[str, np.ndarray], answers: Answers, least: float) -> list[Row]:
    """Each kind's mean over suites with its interval, then that of each suite and wording; ``least`` is the least value of the kinds without guessing."""
    numbers, suites = answers.keys["suite"].factorize()
    sizes = np.bincount(numbers)
    rows: list[Row] = [{"items": len(answers.by_item(answers.values)[0])}]
    rows += [{"suite": suite, "items": size} for suite, size in zip(suites, sizes.tolist(), strict=True)]
    for kind, each in values.items():
        floor = least if kind.startswith("true") else 0.0
        own, groups = answers.by_item(each)
        of_whole = float((np.bincount(groups, own) / np.bincount(groups)).mean()), *mean_interval(own, groups, floor)
        means, (lower, upper) = np.bincount(numbers, each) / sizes, group_intervals(each, numbers, floor)
        for row, found in zip(rows, [of_whole, *zip(means.tolist(), lower.tolist(), upper.tolist(), strict=True)], strict=True):
            row |= zip((kind, f"{kind}_lower", f"{kind}_upper"), found, strict=True)
    return rows


def changed_items(worlds: Iterable[World], answers: AllAnswers) -> pd.DataFrame:
    """For each run the items that it answers right and its base model wrong, or the other way round."""
    columns: dict[str, list[np.ndarray]] = {name: [np.empty(0, bool if name in ("before", "after") else object)] for name in CHANGED}
    for world in worlds:
        for score in ("domain", "general"):
            for index, pairs in pairs_of(world, answers, score):
                keys = {key: pairs[0][1].keys[key].to_numpy() for key in KEY}
                for name, (before, after) in zip(world.points[index].names, pairs, strict=True):
                    changed = np.flatnonzero(before.values != after.values)
                    parts = {"name": np.full(len(changed), name, object), "score": np.full(len(changed), score, object)}
                    parts |= {key: values[changed] for key, values in keys.items()}
                    parts |= {"before": before.values[changed] == 1, "after": after.values[changed] == 1}
                    for column, part in parts.items():
                        columns[column].append(part)
    return pd.DataFrame({column: np.concatenate(parts) for column, parts in columns.items()})
