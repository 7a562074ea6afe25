"""The correlation of drift and drop, on made-up runs."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.drift_worth import Point, correlation, points, spearman, table, worth
from tests.helpers.scores import write_values


def made(seed: int, noise: float, num_runs: int = 12) -> list[Point]:
    """Two remedies: in each the drop follows the drift, but the one that drifts far loses little."""
    draw = np.random.default_rng(seed)
    near, far = draw.uniform(0, 1, num_runs), draw.uniform(10, 11, num_runs)
    runs = [Point("near", kl, kl + noise * draw.normal()) for kl in near]
    return runs + [Point("far", kl, kl - 10.5 + noise * draw.normal()) for kl in far]


def test_in_one_group_it_is_spearmans() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2)).round(1)  # with ties
    assert spearman([values[None]]).tolist() == pytest.approx([pd.DataFrame(values).rank().corr().iloc[0, 1]], abs=1e-12)
    assert math.isnan(spearman([np.ones((1, 5, 2))])[0])


def test_within_remedies_is_not_pooled() -> None:
    found = worth(made(0, noise=0.0))
    assert found["within remedy"].rho == found["near"].rho == found["far"].rho == pytest.approx(1)
    assert found["pooled"].rho < 0.3 and found["pooled"].num_runs == found["within remedy"].num_runs == 24 and found["far"].num_runs == 12


@pytest.mark.slow
def test_the_interval_holds_the_truth_and_narrows() -> None:
    few, many = (worth(made(1, noise=0.3, num_runs=number))["within remedy"] for number in (8, 80))
    assert few.lower < few.rho < few.upper and many.lower < many.rho < many.upper
    assert many.upper - many.lower < few.upper - few.lower
    assert few.lower < worth(made(2, noise=0.3, num_runs=400))["within remedy"].rho < few.upper
    independent = np.random.default_rng(3).normal(size=(40, 2))
    nothing = correlation(independent, np.zeros(40))
    assert nothing.lower < 0 < nothing.upper


def test_too_few_runs_of_a_remedy_are_left_out() -> None:
    runs = [*made(0, noise=0.0), Point("lone", 3.0, -5.0), Point("lone", 4.0, 5.0)]
    found = worth(runs)
    assert found["within remedy"].num_runs == 24 and found["pooled"].num_runs == 26
    assert found["lone"].num_runs == 0 and math.isnan(found["lone"].rho)


def write_run(folder: Path, remedy: str, **metrics: dict[str, float]) -> None:
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"remedy": remedy, "rate": 1e-3, "seed": 0, "variant": "cot"}))
    write_values(folder, {"test": {"test/score": 0.5}, **metrics})


def test_runs_are_read_from_their_folders(tmp_path: Path) -> None:
    for number in range(4):
        fit = {"drift/kl": 0.1 * number, "general/drop": 0.2 * number}
        write_run(tmp_path / f"talr-{number}", "talr", fit=fit, test={"test/score": 0.5, "general/drop": -0.1 * number})
    write_run(tmp_path / "without", "talr", fit={"general/drop": 0.9})
    write_run(tmp_path / "base", "base", fit={"drift/kl": 0.0, "general/drop": 0.0})
    found = points([tmp_path])
    assert sorted(found) == [Point("talr", 0.1 * number, 0.2 * number) for number in range(4)]
    assert worth(found)["pooled"].rho == pytest.approx(1)
    assert worth(points([tmp_path], "test/general/drop"))["pooled"].rho == pytest.approx(-1)
    assert "| pooled | +1.00 | +1.00 to +1.00 | 4 |" in table(found)
