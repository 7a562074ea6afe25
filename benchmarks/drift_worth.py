"""Does the drift predict the cost of a run? Spearman's rank correlation of ``drift/kl`` with the measured ``general/drop``, over the runs of a sweep.

    python -m benchmarks.drift_worth runs/drift                          (all runs in the folder that had Drift and GeneralScore)
    python -m benchmarks.drift_worth runs/drift --drop test/general/drop  (the drop on test items, which select nothing)

Both are measured with a run's final weights. ``pooled`` ranks all runs together. ``within remedy`` ranks the runs of each remedy among themselves, divides
the ranks by their number and centres them: a difference between whole remedies has no effect. Intervals are percentile bootstraps over runs, which are
resampled within each remedy where ranks are within remedies.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.runs import LeftOutError, find, read_run

RESAMPLES = 2000
FEWEST = 3
"""The least number of runs that a group needs to be ranked."""


class Point(NamedTuple):
    """Drift and measured drop of one run."""

    remedy: str
    kl: float  # nats per token
    drop: float  # of the general score


class Correlation(NamedTuple):
    """Spearman's rho, its 95 % interval, and the number of runs; rho is nan where there is nothing to rank."""

    rho: float
    lower: float
    upper: float
    num_runs: int


def points(folders: Sequence[Path], drop: str = "fit/general/drop") -> list[Point]:
    """The runs that have both numbers.

    Args:
        folders: Run folders, or folders that contain them.
        drop: Verb and name of the measured drop in ``metrics.json``.
    """
    verb, _, name = drop.partition("/")
    runs = []
    for run_name, folder in find(folders).items():
        try:
            run = read_run(folder, run_name)
        except LeftOutError:
            continue
        measured = (run.fit if verb == "fit" else run.test).get(name, math.nan)
        kl = run.fit.get("drift/kl", math.nan)
        if run.trained and math.isfinite(kl) and math.isfinite(measured):
            runs.append(Point(run.remedy, kl, measured))
    return runs


def spearman(groups: Sequence[np.ndarray]) -> np.ndarray:
    """``[R]`` correlations of ranks within groups, each ``[R, n, 2]`` for R draws of its n runs; nan where one of the two numbers never differs.

    With one group this is the usual Spearman's rho; equal values share the mean of their ranks.
    """
    products = np.zeros((len(groups[0]), 3))
    for values in groups:
        draws, number, _ = values.shape
        rows = pd.DataFrame(values.transpose(0, 2, 1).reshape(2 * draws, number))
        ranks = rows.rank(axis=1).to_numpy().reshape(draws, 2, number).transpose(0, 2, 1) / number
        first, second = np.moveaxis(ranks - ranks.mean(1, keepdims=True), 2, 0)
        products += np.stack([(first * second).sum(1), (first**2).sum(1), (second**2).sum(1)], 1)
    spread = np.sqrt(products[:, 1] * products[:, 2])
    return np.divide(products[:, 0], spread, out=np.full(len(spread), math.nan), where=spread > 0)


def correlation(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> Correlation:
    """Spearman's rho with its bootstrap interval: runs are resampled within their groups, and draws in which nothing differs are left out.

    Args:
        values: ``[N, 2]``, divergence and drop of each run.
        groups: ``[N]``, the number of each run's group.
        seed: Seed of the draws.
    """
    parts = [part for group in np.unique(groups) if len(part := values[groups == group]) >= FEWEST]
    if not parts:
        return Correlation(math.nan, math.nan, math.nan, 0)
    draw = np.random.default_rng(seed)
    rhos = spearman([part[draw.integers(0, len(part), (RESAMPLES, len(part)))] for part in parts])
    lower, upper = np.nanquantile(rhos, (0.025, 0.975)) if np.isfinite(rhos).any() else (math.nan, math.nan)
    return Correlation(float(spearman([part[None] for part in parts])[0]), float(lower), float(upper), sum(map(len, parts)))


def worth(runs: Sequence[Point]) -> dict[str, Correlation]:
    """The correlations ``pooled``, ``within remedy``, and of each remedy alone."""
    values = np.array([(run.kl, run.drop) for run in runs]).reshape(-1, 2)
    remedies, number = np.unique([run.remedy for run in runs], return_inverse=True)
    shared = {"pooled": correlation(values, np.zeros(len(runs))), "within remedy": correlation(values, number)}
    return shared | {str(remedy): correlation(values[number == index], number[number == index]) for index, remedy in enumerate(remedies)}


def table(runs: Sequence[Point]) -> str:
    """Format the correlations as a Markdown table."""
    lines = ["| runs | Spearman of drift/kl and general/drop | 95 % interval over runs | number |", "|---|---|---|---|"]
    lines += [f"| {name} | {rho:+.2f} | {lower:+.2f} to {upper:+.2f} | {number} |" for name, (rho, lower, upper, number) in worth(runs).items()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Spearman's correlation of the drift with the measured general drop.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--drop", default="fit/general/drop", help="verb and name in metrics.json")
    words = parser.parse_args()
    chosen = points(words.folders, words.drop)
    if not chosen:
        parser.error(f"no run under {', '.join(map(str, words.folders))} has both drift/kl and {words.drop}.")
    print(table(chosen))
