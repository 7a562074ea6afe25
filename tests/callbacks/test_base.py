"""What callbacks share, on rows and measurements that are written by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lit_talr.callbacks import DriftBudget, GeneralBudget
from lit_talr.callbacks.base import Budget, Measure, Scores, paired_error
from lit_talr.losses import Standard
from tests.helpers.fits import fit


def rows(suite: str, right: str, counts: bool = True) -> list[dict[str, Any]]:
    return [{"suite": suite, "id": index, "correct": letter == "r", "counts": counts} for index, letter in enumerate(right)]


def test_only_suites_that_count_are_in_the_mean_and_its_error() -> None:
    base = [*rows("a", "rrrr"), *rows("b", "rw"), *rows("own", "rr", counts=False)]
    now = [*rows("a", "rrww"), *rows("b", "wr"), *rows("own", "ww", counts=False)]
    scores = Scores({"own": 0.0, "a": 0.5, "b": 0.25}, now, {})
    assert scores.mean == 0.375
    lost = [0, 0, 1, 1], [1, -1]
    assert paired_error(base, now) == pytest.approx(math.sqrt(sum(np.var(part, ddof=1) / len(part) for part in lost)) / 2)
    assert math.isnan(Scores({"own": 0.0}, rows("own", "r", counts=False), {}).mean)
    assert math.isnan(paired_error(rows("a", "r"), rows("a", "w"))), "one item has no standard error"


def test_a_suite_under_several_wordings_counts_once_with_an_items_mean_over_them() -> None:
    base = [*rows("a", "rr"), *rows("b/x", "rrrr"), *rows("b/y", "rrww")]
    now = [*rows("a", "rw"), *rows("b/x", "rrww"), *rows("b/y", "rwrw")]
    scores = Scores({"a": 0.5, "b/x": 0.5, "b/y": 0.5}, now, {})
    assert scores.mean == 0.5 and Scores({"a": 1.0, "b/x": 0.0, "b/y": 0.5}, now, {}).mean == (1 + 0.25) / 2
    lost = [0, 1], [0, 0.5, 0, 0.5]  # of b: the mean of (0, 0, 1, 1) and (0, 1, -1, 0)
    assert paired_error(base, now) == pytest.approx(math.sqrt(sum(np.var(part, ddof=1) / len(part) for part in lost)) / 2)


class Script(Measure):
    """Has "measured" one value after the first step, whose standard error is not a number."""

    every_n_epochs = 1

    def __init__(self, measures: str) -> None:
        self.measures = measures

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.measured_step = 1
        trainer.callback_metrics.update({self.measures: torch.tensor(0.9), f"{self.measures}_se": torch.tensor(math.nan)})


@pytest.mark.parametrize(("budget", "steps"), [(DriftBudget(0.1), 1), (GeneralBudget(0.1), 3)])
def test_nan_is_over_the_budget_of_the_divergence_only(folder: Path, tmp_path: Path, budget: Budget, steps: int) -> None:
    ends: list[int] = []

    class End(Script):
        def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
            ends.append(trainer.global_step)

    fit(folder, Standard(), steps=3, batching={"micro_batch_size": 8}, trainer={"callbacks": [End(budget.measures), budget], "default_root_dir": str(tmp_path)})
    assert ends == [steps]


def test_a_budget_reads_the_metric_of_its_name_only(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads `general/drop`, which nothing before it logs during fit; put a `GeneralScore` or an `LMEval` with an interval"):
        fit(folder, Standard(), steps=1, trainer={"callbacks": [Script("drift/kl"), GeneralBudget(0.1)], "default_root_dir": str(tmp_path)})
