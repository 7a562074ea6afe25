"""Benchmarks and what a model scores on them; all of it without the harness."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Benchmark:
    """How a task, or a group of tasks, is asked.

    Args:
        metric: Its score among the general abilities, as the harness names a metric and the filter of answers before it: ``acc,none``,
            ``exact_match,strict-match``, ``pass@1,create_test``. Each item must be right or wrong by it. Null: the benchmark is only logged.
        num_fewshot: Examples before each question; the task's own number by default.
        limit: Ask only the first so many items, of each task of a group; all by default.
        max_gen_toks: Tokens after which a generated answer is cut; the task's own number by default.

    Raises:
        ValueError: For a value out of range, and a metric without its filter.
    """

    metric: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    max_gen_toks: int | None = None

    def __post_init__(self) -> None:
        if self.metric is not None and "," not in self.metric:
            raise ValueError(f"`metric` must be a metric and its filter, such as `acc,none`, got {self.metric!r}.")
        for name, least in (("num_fewshot", 0), ("limit", 1), ("max_gen_toks", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, or null for the task's own, got {value}.")


class Scores(NamedTuple):
    """Of one model on all benchmarks."""

    results: dict[str, dict[str, float]]  # of each task and group, by the harness's names
    by_suite: dict[str, float]  # of each benchmark that has a main metric
    rows: list[dict[str, Any]]  # one for each of their items, on every rank

    @property
    def mean(self) -> float:
        return float(np.mean([*self.by_suite.values()]))


def main_score(name: str, metric: str, found: Mapping[str, float]) -> float:
    if metric not in found:
        raise ValueError(f"`tasks`: `{name}` has no metric `{metric}`; it has {', '.join(f'`{key}`' for key in found) or 'none'}.")
    return found[metric]


def item_rows(name: str, metric: str, samples: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A row for each item: whether it is right, with the model's raw answers as the harness has them."""
    key, kind = metric.rsplit(",", 1)
    found = [(task, sample) for task, part in samples.items() for sample in part if sample["filter"] == kind and key in sample]
    for index, (task, sample) in enumerate(found):
        if sample[key] not in (0, 1):
            raise ValueError(f"`tasks`: `{metric}` of `{name}` is not right or wrong by item but {sample[key]!r}; name another metric, or none.")
        about = {"task": task, "doc_id": sample["doc_id"], "prompt_hash": sample["prompt_hash"], "truth": str(sample["target"])}
        yield {"id": index, **about, "resps": sample["resps"], "correct": bool(sample[key])}


def logged(metric: str) -> str:
    """A metric's name as every logger takes it: ``acc``, ``exact_match/strict-match``, ``pass_at_1/create_test``."""
    return metric.removesuffix(",none").replace("@", "_at_").replace(",", "/")


def check_same_items(before: Scores, now: Scores) -> None:
    """Refuse to compare answers to other items.

    Raises:
        ValueError: With the way out.
    """
    items = [[tuple(row.get(key) for key in ("suite", "id", "prompt_hash", "truth")) for row in scores.rows] for scores in (before, now)]
    if items[0] != items[1]:
        raise ValueError(
            "`LMEval`: the starting model's answers in this run's answers/ are not to the items that are asked now; ask what the run was begun with, "
            "or name another folder with `--run`."
        )


def check_same_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to put results beside those of other settings; what was asked of one model alone, and only logged, may differ.

    Args:
        before: ``lm_eval.json`` as it is.
        now: What would be in it.

    Raises:
        ValueError: With the way out.
    """
    sides = [dict(before), json.loads(json.dumps(now))]
    for part in ("benchmarks", "files", "tasks"):
        both = sides[0][part].keys() & sides[1][part].keys()
        if part == "benchmarks":
            both |= {name for side in sides for name, benchmark in side[part].items() if benchmark["metric"]}
        sides = [{**side, part: {name: side[part].get(name) for name in both}} for side in sides]
    names = now.keys() - {"unavailable"}
    before, now = ({name: side.get(name) for name in names} for side in sides)
    if found := next(differences(before, now), None):
        raise ValueError(
            f"`LMEval`: this run's answers/ are not to the items that are asked now, or not in the same way: {found}; ask what the run was begun with, "
            "or name another folder with `--run`."
        )


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What two records do not share, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"`{name}` was {json.dumps(before)[:100]} and is {json.dumps(now)[:100]}"
