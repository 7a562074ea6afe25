"""Benchmarks and their results; nothing here needs the harness."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_talr.utils.errors import check_least

Row = Mapping[str, Any]
WAY_OUT = "ask what the run was begun with, or name another folder with `--run`"
OWN = "null takes the task's own number"


@dataclass(frozen=True)
class Benchmark:
    """Settings of a task, or of a group of tasks.

    Args:
        metric: Its score among the general abilities, as the harness names a metric and the filter of responses before it: ``acc,none``,
            ``exact_match,strict-match``, ``pass@1,create_test``. Each item must be right or wrong by it. Null: the benchmark is only logged.
        num_fewshot: Examples before each question; the task's own number by default.
        limit: Ask only the first so many items of each task of a group; all by default.
        max_gen_toks: Tokens after which a response is cut; the task's own number by default.

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
        check_least("num_fewshot", self.num_fewshot, 0, OWN)
        check_least("limit", self.limit, 1, "null asks all items")
        check_least("max_gen_toks", self.max_gen_toks, 1, OWN)


def main_score(name: str, metric: str, metrics: Mapping[str, float]) -> float:
    if metric not in metrics:
        raise ValueError(f"`tasks`: `{name}` has no metric `{metric}`; it has {', '.join(f'`{key}`' for key in metrics) or 'none'}.")
    return metrics[metric]


def item_rows(name: str, metric: str, samples: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A row for each item: whether it is right, with the model's raw responses as the harness has them."""
    key, kind = metric.rsplit(",", 1)
    scored = [(task, sample) for task, part in samples.items() for sample in part if sample["filter"] == kind and key in sample]
    for index, (task, sample) in enumerate(scored):
        if sample[key] not in (0, 1):
            raise ValueError(f"`tasks`: `{metric}` of `{name}` is not right or wrong by item but {sample[key]!r}; name another metric, or none.")
        about = {"task": task, "doc_id": sample["doc_id"], "prompt_hash": sample["prompt_hash"], "truth": str(sample["target"])}
        yield {"id": index, **about, "resps": sample["resps"], "correct": bool(sample[key]), "chance": chance(sample)}


def chance(sample: Mapping[str, Any]) -> float:
    """The probability that a guess is right: 1 / k where the model was asked how likely each of k choices is, 0 where it wrote an answer."""
    num_choices = len(sample["resps"]) // (2 if "acc_mutual_info" in sample else 1)  # which asks each choice without the question too
    return 1 / num_choices if num_choices > 1 else 0.0


def logged(metric: str) -> str:
    """A metric's name as every logger accepts it: ``acc``, ``exact_match/strict-match``, ``pass_at_1/create_test``."""
    return metric.removesuffix(",none").replace("@", "_at_").replace(",", "/")


def check_same_items(base: Sequence[Row], now: Sequence[Row]) -> None:
    """Refuses to compare responses to different items."""
    items = [[tuple(row.get(key) for key in ("suite", "id", "prompt_hash", "truth")) for row in rows] for rows in (base, now)]
    if items[0] != items[1]:
        raise ValueError(f"`LMEval`: the base model's responses in this run's answers/ are not to the items that are asked now; {WAY_OUT}.")


def check_same_settings(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to add results to an ``lm_eval.json`` of other settings; benchmarks without a main metric may be in only one of them."""
    sides = [dict(recorded), json.loads(json.dumps(now))]
    for part in ("benchmarks", "files", "tasks"):
        both = sides[0][part].keys() & sides[1][part].keys()
        if part == "benchmarks":
            both |= {name for side in sides for name, benchmark in side[part].items() if benchmark["metric"]}
        sides = [{**side, part: {name: side[part].get(name) for name in both}} for side in sides]
    names = now.keys() - {"unavailable"}
    recorded, now = ({name: side.get(name) for name in names} for side in sides)
    if difference := next(differences(recorded, now), None):
        raise ValueError(f"`LMEval`: this run's answers/ are not to the items that are asked now, or not in the same way: {difference}; {WAY_OUT}.")


def differences(recorded: Any, now: Any, name: str = "") -> Iterator[str]:
    """The differences of two records, in words."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in sorted(recorded.keys() | now.keys()):
            yield from differences(recorded.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif recorded != now:
        yield f"`{name}` was {json.dumps(recorded)[:100]} and is {json.dumps(now)[:100]}"
