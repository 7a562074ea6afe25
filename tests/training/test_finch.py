"""FINCH in whole runs: the rate of a step follows that step's NLL, however the step is split."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_talr.losses import TALR, Standard
from lit_talr.training.schedules import FINCH, Constant
from tests.helpers.fits import distance, fit
from tests.helpers.params import first_is_fast
from tests.helpers.remedies import ADAMW, CAP, REMEDIES, STEPS, naive_finch
from tests.training.test_non_finite import SKIP, SpoiledExample


class Logged(Callback):
    """Rate and NLL of every step as they are logged."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.nll: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.rates.append(float(trainer.callback_metrics["train/learning_rate"]))
            self.nll.append(float(trainer.callback_metrics["train/nll"]))


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", first_is_fast(2, 8))
def test_ten_steps_are_those_of_a_naive_loop(folder: Path, micro_batch_size: int) -> None:
    means: list[float] = []
    wanted, start = (naive_finch(folder, steps, torch.float64, means) for steps in (STEPS, 0))
    found = fit(folder, Standard(), STEPS, batching={"micro_batch_size": micro_batch_size}, **REMEDIES["finch"]())
    assert distance(found, wanted, start) < 1e-6
    assert min(means) ** -0.5 > CAP > max(means) ** -0.5  # the cap holds in some steps only


def test_the_nll_is_unweighted_whatever_the_loss(folder: Path) -> None:
    logged = Logged()
    fit(folder, TALR(), 3, optimizer=ADAMW, schedule=FINCH(smoothing=0.0), batching={"micro_batch_size": 4}, trainer={"callbacks": [logged]})
    assert logged.rates == pytest.approx([0.01 * nll**-0.5 for nll in logged.nll], rel=1e-6)


def test_resumed_is_bitwise_uninterrupted(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": ADAMW, "batching": {"micro_batch_size": 4}}
    whole = fit(folder, Standard(), 8, schedule=FINCH(), **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1)
    schedule = FINCH()
    fit(folder, Standard(), 5, schedule=schedule, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, Standard(), 8, schedule=FINCH(), ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    again = fit(folder, Standard(), 8, schedule=schedule, **options)  # a new run with a schedule that has seen another
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match="its model.schedule is FINCH, here Constant"):
        fit(folder, Standard(), 8, schedule=Constant(), ckpt_path=str(checkpoint), **options)


def test_a_skipped_step_leaves_the_mean_as_it_is(folder: Path) -> None:
    logged, schedule = Logged(), FINCH()
    module: Any = partial(SpoiledExample, non_finite=SKIP.keywords["non_finite"])
    fit(folder, Standard(), 3, module, ADAMW, schedule=schedule, trainer={"callbacks": [logged]})
    first, skipped, third = logged.nll
    assert skipped == float("inf")
    assert schedule.state()["mean"] == pytest.approx(0.9 * first + 0.1 * third, rel=1e-6)
