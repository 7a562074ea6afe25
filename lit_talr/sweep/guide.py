"""The guide: finds the best setting on validation within a budget of general ability, and tests it once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from lit_talr.metrics.wordings import suite_of
from lit_talr.report.statistics import adjusted_mean
from lit_talr.sweep.points import Point
from lit_talr.sweep.runs import Runs
from lit_talr.sweep.workers import Plan, run_points
from lit_talr.utils.files import read_json_lines, write_json

CHOSEN_BY = ("val/score", "general/drop")
RULE = "the highest val/score among settings whose general/drop on validation is within the budget; both are means over seeds"
Setting = dict[str, Any]


def run_guide(plan: Plan, budget: float) -> None:
    """Fit all, choose by validation, test the choice.

    Raises:
        ValueError: For trials that failed, when all else is done.
    """
    if plan.space.alphas:
        print("`--budget` chooses by validation, which merges do not have: `alphas` is ignored.")
    runs, failed = run_points(plan, [point for point in plan.points if point.is_trial], tested=False)
    check_comparable(runs)
    settings = list_settings(runs)
    chosen, closest = choose_setting(settings, budget)
    record = {"budget": {"general_drop": budget}, "rule": RULE, "settings": settings, "failed": failed, "chosen": chosen, "closest": closest}
    write_json(plan.out / "guide.json", record)
    if chosen is not None:
        base = next(point.base for point in plan.points if point.name in chosen["trials"])
        tested, _ = run_points(plan, [point for point in plan.points if point.name in (*chosen["trials"], base)], tested=True)
        record["test"] = test = score_on_test(tested, chosen, budget)
        write_json(plan.out / "guide.json", record)
        print(f"Chosen: {setting_name(chosen)}, val/score {chosen['val/score']:.3f} at a general/drop of {chosen['general/drop']:.4f} ({RULE}).")
        print(
            f"On test: test/score {test['test/score']:.3f}, general/drop {test['general/drop']:.4f}, P(drop <= {budget:g}) = {test['P(drop <= budget)']:.3f} "
            "over items."
        )
    elif closest is not None:
        nearest = f"{setting_name(closest)} with {closest['general/drop']:.4f}"
        print(f"No setting stays within a general/drop of {budget:g}; the closest is {nearest}. None was tested.")
    if failed:
        raise ValueError(f"{len(failed)} trial(s) failed, and their settings were left out: {', '.join(failed)}. The same command tries them again.")


def check_comparable(runs: Runs) -> None:
    """Refuses to choose among trials of a variant whose scores are of different base models, items or arithmetics.

    Raises:
        ValueError: Naming two trials and what differs.
    """
    first: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for point in runs.points.values():
        for key, score in runs.records(point.name, "fit").items() if runs.is_finished(point.name) else ():
            facts = {"base model": score.base, "arithmetic": score.arithmetic, "items": score.items}
            for kind, value in facts.items() if key in CHOSEN_BY else ():
                other, before = first.setdefault((point.variant, point.seed, key, kind), (point.name, value))
                if value != before:
                    raise ValueError(
                        f"`--budget` cannot choose between {other} and {point.name}: the {kind} of their {key} differ ({before} and {value}); "
                        "give all remedies the same, or sweep them apart."
                    )


def list_settings(runs: Runs) -> list[Setting]:
    """Validation scores of each variant, remedy and rate, means over its seeds; a setting with a trial that failed has none."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in runs.points.values():
        groups.setdefault((point.variant, point.remedy, point.rate), []).append(point)
    settings = []
    for (variant, remedy, rate), trials in groups.items():
        setting: Setting = {"variant": variant, "remedy": remedy, "rate": rate, "trials": [trial.name for trial in trials]}
        metrics = [runs.metrics(trial.name, "fit") if runs.is_finished(trial.name) else {} for trial in trials]
        for key in CHOSEN_BY:
            values = [numbers[key] for numbers in metrics if key in numbers]
            setting[key] = sum(values) / len(values) if len(values) == len(trials) else None
        settings.append(setting)
    return settings


def choose_setting(settings: Sequence[Setting], budget: float) -> tuple[Setting | None, Setting | None]:
    """The best setting within the budget, if there is one; and the one that drops least."""
    scored = [setting for setting in settings if setting["val/score"] is not None and setting["general/drop"] is not None]
    within = [setting for setting in scored if setting["general/drop"] <= budget]
    best = max(within, key=lambda setting: (setting["val/score"], -setting["general/drop"]), default=None)
    return best, min(scored, key=lambda setting: setting["general/drop"], default=None)


def read_correct(path: Path) -> dict[tuple[str, Any], bool]:
    """Whether each item of each suite was answered correctly, for suites that count in the mean."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: P(drop <= budget) compares answers to general suites; `callbacks` needs GeneralScore.")
    return {(row["suite"], row["id"]): bool(row["correct"]) for row in read_json_lines(path) if row.get("counts", True)}


def item_losses(folders: Iterable[Path]) -> dict[str, list[float]]:
    """How much of each test item was lost, by suite: from 1 (the base model was right, the run is wrong) to -1, the mean over runs and wordings."""
    runs: list[dict[tuple[str, Any], int]] = []
    for folder in folders:
        correct, base = (read_correct(folder / "answers" / f"{name}.jsonl") for name in ("general-test", "general-base-test"))
        if correct.keys() != base.keys() or (runs and correct.keys() != runs[0].keys()):
            raise ValueError(f"{folder / 'answers'}: general-test.jsonl and general-base-test.jsonl must be of the same items, in all runs of a setting.")
        runs.append({item: base[item] - correct[item] for item in correct})
    losses: dict[str, dict[Any, list[float]]] = {}  # by suite and item, for each wording
    for item in runs[0]:
        losses.setdefault(suite_of(item[0]), {}).setdefault(item[1], []).append(sum(run[item] for run in runs) / len(runs))
    return {suite: [sum(wordings) / len(wordings) for wordings in items.values()] for suite, items in losses.items()}


def probability_within(losses: dict[str, list[float]], budget: float) -> float:
    """P(drop <= budget) over items: the drop, the mean over suites, is taken to be normal with the mean and error of ``adjusted_mean``."""
    values = np.concatenate([*losses.values()])
    mean, error = adjusted_mean(values, np.repeat(np.arange(len(losses)), [*map(len, losses.values())]), least=-1.0)
    return NormalDist(mean, error).cdf(budget)


def score_on_test(runs: Runs, chosen: Setting, budget: float) -> dict[str, Any]:
    """Test scores of the chosen setting: means over its seeds, and the probability that its drop is within the budget."""
    losses = item_losses([runs.out / name for name in chosen["trials"]])
    scores = [runs.metrics(name, "test")["test/score"] for name in chosen["trials"]]
    return {
        "test/score": sum(scores) / len(scores),
        "general/drop": float(np.mean([np.mean(values) for values in losses.values()])),
        "P(drop <= budget)": probability_within(losses, budget),
        "items": {suite: len(values) for suite, values in losses.items()},
    }


def setting_name(setting: Setting) -> str:
    """The name of the setting's runs without the seed."""
    return str(setting["trials"][0]).rsplit("-s", 1)[0]
