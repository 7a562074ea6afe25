import json
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from lit_talr.callbacks import TokenProbability
from lit_talr.data.batch_plan import epoch_order
from lit_talr.losses import L2, TALR, LossStrategy, Standard
from lit_talr.losses.base import LossWrapper, TokenStats
from lit_talr.module import DomainSFT
from lit_talr.training.non_finite import FILE, Guard, NonFinite, Seen, to_blame
from tests.helpers.fits import LOSSES, fit
from tests.helpers.params import first_is_fast

ADAMW = partial(torch.optim.AdamW, lr=0.01)
BAD_STEP = 1  # of those that are counted from 0; the first epoch's examples 8 to 15
STEP_IDS = epoch_order(20, 0, 0, True)[8:16].tolist()
SKIP: Any = partial(DomainSFT, non_finite=NonFinite("skip"))


By = Literal["nan", "inf", "gradient"]


class Spoiled(LossWrapper):
    """The loss that it holds, spoiled in given steps, on the last rank: a ``nan`` factor spoils the gradient too, an ``inf`` that is added does not;
    ``gradient`` spoils nothing else.
    """

    def __init__(self, loss: LossStrategy, by: By = "nan", steps: Sequence[int] = (BAD_STEP,)) -> None:
        super().__init__(loss)
        self.by = by
        self.steps = steps
        self.num_done = 0

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        loss = super().forward(stats, weights)
        if self.num_done not in self.steps or (dist.is_initialized() and dist.get_rank() < dist.get_world_size() - 1):
            return loss
        if self.by == "gradient":
            loss.register_hook(lambda gradient: gradient * math.inf)
            return loss
        return loss * math.nan if self.by == "nan" else loss + math.inf

    def step_end(self) -> None:
        super().step_end()
        self.num_done += 1

    def get_extra_state(self) -> int:
        return self.num_done

    def set_extra_state(self, state: int) -> None:
        self.num_done = state


class SpoiledExample(DomainSFT):
    """One token of one example is impossible in one step."""

    def token_stats(self, batch: Any, numbers: Any = None) -> TokenStats:
        stats = super().token_stats(batch, numbers)
        if numbers is None and self.trainer.global_step == BAD_STEP and STEP_IDS[3] in batch["ids"]:
            row = batch["ids"].index(STEP_IDS[3])
            one = torch.zeros_like(stats.mask)
            one[row, stats.mask[row].nonzero()[0]] = True
            stats = stats._replace(nll=torch.where(one, math.inf, stats.nll))
        return stats


class Unstepped(DomainSFT):
    """Leaves out the optimizer step."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.trainer.global_step == BAD_STEP:
            optimizer_closure()
            self.step_end(optimizer.param_groups[0]["lr"])
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


class Watch(Callback):
    """Keeps what a run ends with, however it ends."""

    error = ""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}
        self.state = trainer.optimizers[0].state_dict()["state"]
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


def watched(folder: Path, run: Path, loss: LossStrategy, callbacks: Sequence[Callback] = (), **options: Any) -> Watch:
    """A fit into a run folder, that may fail."""
    watch = Watch()
    trainer = {"callbacks": [watch, *callbacks], "default_root_dir": str(run), "enable_checkpointing": bool(callbacks)}
    try:
        fit(folder, loss, optimizer=ADAMW, trainer=trainer, **options)
    except ValueError as error:
        watch.error = str(error)
    return watch


def same(first: dict[Any, Any], second: dict[Any, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / FILE).read_text().splitlines()]


@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_stop_changes_nothing_and_names_the_example(folder: Path, tmp_path: Path, micro_batch_size: int) -> None:
    batching = {"micro_batch_size": micro_batch_size}
    before = watched(folder, tmp_path / "before", Standard(), steps=BAD_STEP, batching=batching)
    stopped = watched(folder, tmp_path, Standard(), module_class=SpoiledExample, batching=batching)
    assert stopped.error == (
        f"The loss of step 2 is not finite (1 example, see {tmp_path / FILE}); lower the learning rate, look at the rows, "
        "or skip such steps: `--model.non_finite.action skip`."
    )
    assert same(stopped.weights, before.weights)
    assert stopped.state and all(same(stopped.state[key], before.state[key]) for key in before.state)
    (row,) = rows(tmp_path)
    source = json.loads((folder / "train.jsonl").read_text().splitlines()[STEP_IDS[3]])
    assert (row["step"], row["epoch"], row["rank"], row["example"], row["num_non_finite"]) == (2, 1, 0, STEP_IDS[3], 1)
    assert row["where"] == f"{folder / 'train.jsonl'}: row {STEP_IDS[3] + 1}"
    assert 0 < row["text"].index(source["prompt"]) < row["text"].index(source["response"])
    assert row["num_supervised"] > 1 and 0 < row["min_nll"] <= row["mean_nll"] <= row["max_nll"] < math.inf


@pytest.mark.parametrize("by", first_is_fast("nan", "inf", "gradient"))
@pytest.mark.parametrize("micro_batch_size", first_is_fast(2, 8))
@pytest.mark.parametrize("name", ["standard", "l2", "talr-step"])
def test_skip_is_bitwise_a_run_without_that_optimizer_step(folder: Path, tmp_path: Path, name: str, micro_batch_size: int, by: By) -> None:
    batching = {"micro_batch_size": micro_batch_size}
    without = watched(folder, tmp_path / "without", LOSSES[name](), module_class=Unstepped, batching=batching)
    skipped = watched(folder, tmp_path, Spoiled(LOSSES[name](), by), module_class=SKIP, batching=batching)
    assert same(skipped.weights, without.weights)
    assert skipped.state and all(same(skipped.state[key], without.state[key]) for key in without.state)
    assert skipped.metrics == {**without.metrics, "train/skipped_steps": 1}
    assert sorted(row["example"] for row in rows(tmp_path)) == sorted(STEP_IDS)
    assert all(row["num_non_finite"] == 0 for row in rows(tmp_path))


def test_a_gradient_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    before = watched(folder, tmp_path / "before", Standard(), steps=BAD_STEP)
    stopped = watched(folder, tmp_path, Spoiled(Standard(), "gradient"))
    assert stopped.error.startswith("The gradient of step 2 is not finite (8 examples, see ") and same(stopped.weights, before.weights)


def test_l2_around_a_loss_that_is_skipped_in_its_first_step_pulls_to_the_start(folder: Path, tmp_path: Path) -> None:
    within = watched(folder, tmp_path, L2(Spoiled(TALR(scope="step"), steps=[0]), 0.05), module_class=SKIP)
    around = watched(folder, tmp_path, Spoiled(L2(TALR(scope="step"), 0.05), steps=[0]), module_class=SKIP)
    assert same(within.weights, around.weights) and within.metrics["train/skipped_steps"] == 1
    assert within.metrics["l2/distance"] > 0 and math.isfinite(within.metrics["l2/distance"])


def test_an_impossible_token_does_not_reach_the_next_steps(folder: Path, tmp_path: Path) -> None:
    module_class: Any = partial(SpoiledExample, non_finite=NonFinite("skip"))
    watch = watched(folder, tmp_path, TALR(scope="step"), module_class=module_class)
    assert watch.metrics["train/skipped_steps"] == 1
    assert all(math.isfinite(value) for value in watch.metrics.values()) and all(weight.isfinite().all() for weight in watch.weights.values())


class NoNumber(DomainSFT):
    """In one step no token has a number."""

    def token_stats(self, batch: Any, numbers: Any = None) -> TokenStats:
        stats = super().token_stats(batch, numbers)
        return stats._replace(nll=stats.nll * math.nan) if numbers is None and self.trainer.global_step == BAD_STEP else stats


@pytest.mark.parametrize("micro_batch_size", [4, 8])
def test_a_step_without_a_number_spoils_neither_temperature_nor_statistics(folder: Path, tmp_path: Path, micro_batch_size: int) -> None:
    loss, watch = TALR(scope="step"), TokenProbability(probe_size=7, num_bins=8)
    spoiled: Any = partial(NoNumber, non_finite=NonFinite("skip", max_skipped=1))
    options = {"callbacks": [watch], "default_root_dir": str(tmp_path), "max_epochs": 1}
    weights = fit(folder, loss, steps=3, module_class=spoiled, batching={"micro_batch_size": micro_batch_size}, trainer=options)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert loss.step_temperature is not None and loss.step_temperature.isfinite()
    (row,) = [row for row in watch.rows if (row["set"], row["group"], row["epoch"]) == ("train", "all", 1)]
    assert 0 < row["num_tokens"] < 304 and math.isfinite(row["nll"]) and math.isfinite(row["weight"])


def test_a_run_that_is_never_spoiled_is_bitwise_one_without_a_guard(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = watched(folder, tmp_path, LOSSES["l2"](), batching={"micro_batch_size": 2}, module_class=SKIP)
    monkeypatch.setattr(Guard, "attach", lambda *_: None)
    bare = watched(folder, tmp_path, LOSSES["l2"](), batching={"micro_batch_size": 2})
    assert same(guarded.weights, bare.weights) and guarded.metrics == bare.metrics
    assert "train/skipped_steps" not in guarded.metrics and not (tmp_path / FILE).exists()


@pytest.mark.slow
def test_the_bound_holds_over_a_resume(folder: Path, tmp_path: Path) -> None:
    loss = partial(Spoiled, Standard(), steps=(1, 4))
    once: Any = partial(DomainSFT, non_finite=NonFinite("skip", max_skipped=1))
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1)
    watched(folder, tmp_path, loss(), steps=3, module_class=once, callbacks=[keep])
    (checkpoint,) = tmp_path.glob("*.ckpt")
    ended = watched(folder, tmp_path, loss(), steps=6, module_class=once, ckpt_path=str(checkpoint))
    assert "The loss of step 5 is not finite (8 examples, see" in ended.error
    assert "and `non_finite.max_skipped`, 1, is reached; lower the learning rate, look at the rows, or raise it." in ended.error
    assert [row["step"] for row in rows(tmp_path)] == [2] * 8 + [5] * 8
    resumed = watched(folder, tmp_path, loss(), steps=6, module_class=SKIP, ckpt_path=str(checkpoint))
    whole = watched(folder, tmp_path, loss(), steps=6, module_class=SKIP)
    assert same(resumed.weights, whole.weights) and resumed.metrics == whole.metrics
    assert whole.metrics["train/skipped_steps"] == 2


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_file_that_cannot_be_written_is_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, action: Literal["stop", "skip"]) -> None:
    (tmp_path / FILE / "in the way").mkdir(parents=True)
    module_class: Any = partial(DomainSFT, non_finite=NonFinite(action))
    watch = watched(folder, tmp_path, Spoiled(Standard()), module_class=module_class)
    said = watch.error if action == "stop" else caplog.text
    assert f"; {tmp_path / FILE} could not be written (Is a directory)" in said
    assert sorted(map(int, re.findall(r"8 examples, ([\d, ]+);", said)[0].split(", "))) == sorted(STEP_IDS)
    assert watch.metrics.get("train/skipped_steps") == (1 if action == "skip" else None)


@pytest.mark.slow
def test_a_scaler_that_finds_no_scale_ends_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It skips each step before any hook is called, and the loss is finite."""
    monkeypatch.setattr("lit_talr.training.non_finite.MANY_SCALED", 4)
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
    trainer: dict[str, Any] = {"precision": None, "plugins": plugins, "default_root_dir": str(tmp_path)}
    fit(folder, Spoiled(Standard(), "gradient", range(1, 4)), optimizer=ADAMW, steps=6, trainer=trainer)
    with pytest.raises(ValueError, match="The gradient of 4 steps in a row was not finite at any loss scale .8 examples, see .*nothing was learned in them"):
        fit(folder, Spoiled(Standard(), "gradient", range(1, 5)), optimizer=ADAMW, steps=6, trainer=trainer)


def test_examples_of_a_packed_row_are_blamed_together(folder: Path, tmp_path: Path) -> None:
    watch = watched(folder, tmp_path, Spoiled(Standard()), batching={"micro_batch_tokens": 600, "packing": True})
    assert watch.error is not None and "examples of packed rows, where a value that is not finite spreads to all" in watch.error
    assert all(row["packed"] for row in rows(tmp_path))


def test_who_is_to_blame() -> None:
    def seen(ids: list[int], nll: list[list[float]], loss: float) -> Seen:
        stats = TokenStats(torch.tensor(nll), torch.tensor([[True, False]] * len(nll)), torch.arange(len(nll)).unsqueeze(1).expand(-1, 2))
        return Seen(ids, False, stats, torch.tensor([loss, 1.0]))

    token, weight = seen([5, 3], [[1, 0], [math.inf, 0]], math.inf), seen([7, 8], [[1, 0], [2, 0]], math.nan)
    fine, empty = seen([1], [[1, 0]], 3e38), seen([], [[0, 0]], 0)
    blamed = lambda *micro_batches, everything=False: [index for index, _, _ in to_blame(micro_batches, everything)]  # noqa: E731
    assert blamed(token, weight, fine, empty) == [3, 7, 8]
    assert blamed(fine, fine) == []
    assert blamed(fine, empty, fine, everything=True) == [1, 1]


def test_a_step_outside_training_is_left_alone() -> None:
    """As torch's distributed checkpoints take it, to set up an optimizer's state."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    guard: Any = Guard(NonFinite())
    guard.attach(optimizer, None, None)
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state[weight]["step"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "ignore"}, "`non_finite.action` must be one of stop, skip, got 'ignore'."),
        ({"max_skipped": -1}, "`non_finite.max_skipped` must be at least 0, got -1."),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonFinite(**options)
