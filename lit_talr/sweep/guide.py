"""The guide: of all settings within a budget of general ability the best on validation, tested once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_talr.sweep.points import Point
from lit_talr.sweep.runs import Runs
from lit_talr.utils.files import read_json_lines

RESAMPLES, SEED = 10_000, 0
RULE = "the highest val/score among settings whose general/drop on validation is within the budget; both are means over seeds"


def settings(runs: Runs) -> list[dict[str, Any]]:
    """Validation scores of each variant, remedy and rate, means over its seeds; a setting with a trial that failed has none."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in runs.points.values():
        groups.setdefault((point.variant, point.remedy, point.rate), []).append(point)
    found = []
    for (variant, remedy, rate), trials in groups.items():
        setting: dict[str, Any] = {"variant": variant, "remedy": remedy, "rate": rate, "trials": [trial.name for trial in trials]}
        metrics = [runs.metrics(trial.name, "fit") if runs.finished(trial.name) else {} for trial in trials]
        for key in ("val/score", "general/drop"):
            values = [numbers[key] for numbers in metrics if key in numbers]
            setting[key] = sum(values) / len(values) if len(values) == len(trials) else None
        found.append(setting)
    return found


def choose(found: Sequence[dict[str, Any]], budget: float) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The chosen setting, None if no one is within the budget; and the one that drops least."""
    scored = [setting for setting in found if setting["val/score"] is not None and setting["general/drop"] is not None]
    within = [setting for setting in scored if setting["general/drop"] <= budget]
    best = max(within, key=lambda setting: (setting["val/score"], -setting["general/drop"]), default=None)
    return best, min(scored, key=lambda setting: setting["general/drop"], default=None)


def read_answers(path: Path) -> dict[tuple[str, Any], bool]:
    """Of each item of each suite whether it was answered rightly; suites whose rows say that they do not count in the mean are left out.

    Raises:
        ValueError: If there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: P(drop <= budget) compares answers to general suites; `callbacks` needs GeneralScore.")
    return {(row["suite"], row["id"]): bool(row["correct"]) for row in read_json_lines(path) if row.get("counts", True)}


def losses(folders: Iterable[Path]) -> dict[str, list[float]]:
    """By suite, of each test item how much of it was lost, from 1 (right before, wrong after) to -1: the mean over runs.

    Raises:
        ValueError: If the answers before and after are not of the same items.
    """
    parts: list[dict[tuple[str, Any], int]] = []
    for folder in folders:
        after, before = (read_answers(folder / "answers" / f"{name}.jsonl") for name in ("general-test", "general-base-test"))
        if after.keys() != before.keys() or (parts and after.keys() != parts[0].keys()):
            raise ValueError(f"{folder / 'answers'}: general-test.jsonl and general-base-test.jsonl must be of the same items, in all runs of a setting.")
        parts.append({item: before[item] - after[item] for item in after})
    found: dict[str, list[float]] = {}
    for item in parts[0]:
        found.setdefault(item[0], []).append(sum(part[item] for part in parts) / len(parts))
    return found


def probability_within(lost: dict[str, list[float]], budget: float, resamples: int = RESAMPLES) -> float:
    """P(drop <= budget) by the paired bootstrap: items are drawn anew within each suite; the drop is the mean over suites.

    How often each of the few different values is drawn is multinomial, which is the same as drawing items, without a table of items x resamples.
    """
    draw = np.random.default_rng(SEED)
    drops = np.zeros(resamples)
    for values in lost.values():
        different, counts = np.unique(np.array(values), return_counts=True)
        drops += draw.multinomial(len(values), counts / len(values), size=resamples) @ different / len(values) / len(lost)
    return float((drops <= budget + 1e-12).mean())


def result(runs: Runs, chosen: dict[str, Any], budget: float) -> dict[str, Any]:
    """What the chosen setting does on test: means over its seeds, and how sure its drop is."""
    lost = losses([runs.out / name for name in chosen["trials"]])
    scores = [runs.metrics(name, "test")["test/score"] for name in chosen["trials"]]
    return {
        "test/score": sum(scores) / len(scores),
        "general/drop": float(np.mean([np.mean(values) for values in lost.values()])),
        "P(drop <= budget)": probability_within(lost, budget),
        "items": {suite: len(values) for suite, values in lost.items()},
        "resamples": RESAMPLES,
        "seed": SEED,
    }


def named(setting: dict[str, Any]) -> str:
    """A setting as the names of its runs have it, without the seed."""
    return str(setting["trials"][0]).rsplit("-s", 1)[0]
