"""The budget: where a run ends, and with which weights. Divergences are written by a script, but for one run that measures them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from lit_talr.callbacks import Drift, DriftBudget
from lit_talr.callbacks.base import Measure
from lit_talr.losses import Standard
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy
from lit_talr.utils.files import read_json_lines
from tests.helpers.fits import fit

ADAM = partial(torch.optim.AdamW, lr=0.01)


class Script(Measure):
    """Has "measured" a divergence at some steps, with a standard error of 0.1."""

    measures = "drift/kl"
    every_n_epochs = 1

    def __init__(self, kl_at: Mapping[int, float]) -> None:
        self.kl_at = kl_at

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.on_train_batch_end(trainer, pl_module, None, None, 0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (step := trainer.global_step) in self.kl_at and self.measured_step != step:
            self.measured_step = step
            trainer.callback_metrics.update({"drift/kl": torch.tensor(self.kl_at[step]), "drift/kl_se": torch.tensor(0.1)})


class Watch(Callback):
    """Keeps the weights after each step, and the metrics at the end."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.metrics: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights[0] = {name: weight.detach().clone() for name, weight in pl_module.backbone.model.named_parameters()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.weights[trainer.global_step] = {name: weight.detach().clone() for name, weight in pl_module.backbone.model.named_parameters()}

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


def run(folder: Path, *callbacks: Callback, steps: int = 6, **options: Any) -> tuple[dict[str, Tensor], Watch]:
    """In full steps of the batch, each of one micro-batch; the first of the callbacks is a watch."""
    watch = Watch()
    trainer = {"callbacks": [watch, *callbacks], **options.pop("trainer", {})}
    return fit(folder, Standard(), steps=steps, trainer=trainer, optimizer=ADAM, batching={"micro_batch_size": 8}, **options), watch


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("budget", "errors", "last"), [(0.25, 2.0, 5), (0.25, 0.0, 3), (9.0, 2.0, 6)])
def test_a_run_ends_where_the_divergence_passes_by_more_than_its_error(folder: Path, budget: float, errors: float, last: int) -> None:
    _, watch = run(folder, Script({0: 0.0, 1: 0.2, 3: 0.3, 5: 0.9}), DriftBudget(budget, errors))
    assert max(watch.weights) == last


@pytest.mark.parametrize(("kl_at", "kept"), [({0: 0.0, 1: 0.2, 3: 0.3, 4: 0.9}, 3), ({0: 0.0, 2: 0.9}, 0), ({0: 0.0, 2: 0.9, 3: 0.0}, 0)])
def test_restore_ends_with_the_weights_of_the_last_measurement_within(
    folder: Path, kl_at: dict[int, float], kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lit_talr")
    end = max(step for step in kl_at if kl_at[step] == 0.9)
    weights, watch = run(folder, Script(kl_at), DriftBudget(0.3, on_exceeded="restore"))
    assert max(watch.weights) == end and same(weights, watch.weights[kept]) and not same(weights, watch.weights[end])
    assert watch.metrics["drift/kl"] == pytest.approx(kl_at[kept]) and watch.metrics["drift/restored_step"] == kept
    ending = f"the run ends after step {end} (epoch {-(-end // 3)}), with the weights of step {kept}."
    assert f"drift/kl is 0.9 (standard error 0.1), over the budget of 0.3; {ending}" in caplog.text


def test_stop_leaves_the_weights_as_they_are(folder: Path) -> None:
    weights, watch = run(folder, Script({0: 0.0, 2: 0.9}), DriftBudget(0.3))
    assert same(weights, watch.weights[2]) and "drift/restored_step" not in watch.metrics


def test_metrics_are_those_of_the_weights(folder: Path) -> None:
    """What was known of others goes; validation, which runs where a run is stopped, is of the restored ones."""

    class Noise(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.callback_metrics[f"other/{trainer.global_step}"] = torch.tensor(1.0)

    _, watch = run(folder, Noise(), Script({0: 0.0, 1: 0.1, 2: 0.9}), DriftBudget(0.3, on_exceeded="restore"))
    assert "train/loss" in watch.metrics and not any(name.startswith("other/") for name in watch.metrics)


@pytest.mark.parametrize("saved", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_resumed_it_has_the_weights_that_it_held(folder: Path, tmp_path: Path, saved: int) -> None:
    """From a checkpoint where there was a measurement, and from one after it; the weights are in the checkpoint."""
    kl_at = {0: 0.0, 2: 0.1, 4: 0.9}
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole, _ = run(folder, Script(kl_at), DriftBudget(0.3, on_exceeded="restore"), keep, trainer={"enable_checkpointing": True})
    del kl_at[0], kl_at[2]
    resumed, watch = run(folder, Script(kl_at), DriftBudget(0.3, on_exceeded="restore"), ckpt_path=str(tmp_path / f"step={saved}.ckpt"))
    assert max(watch.weights) == 4 and same(resumed, whole) and watch.metrics["drift/restored_step"] == 2
    held = torch.load(tmp_path / f"step={saved}.ckpt", weights_only=True)["callbacks"]["DriftBudget"]["weights"]
    assert same({name.removeprefix("backbone.model."): weight for name, weight in held.items()}, whole)
    over = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    assert over["callbacks"]["DriftBudget"]["weights"] == {}
    assert same(whole, {name.removeprefix("backbone.model."): value for name, value in over["state_dict"].items()}), "and what is saved is restored"


def test_a_run_that_it_has_stopped_stays_so_when_resumed(folder: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    stopped, _ = run(folder, Script({0: 0.0, 2: 0.9}), DriftBudget(0.3, on_exceeded="restore"), keep, trainer={"enable_checkpointing": True})
    resumed, watch = run(folder, Script({}), DriftBudget(0.3, on_exceeded="restore"), ckpt_path=str(tmp_path / "step=2.ckpt"))
    assert same(resumed, stopped) and set(watch.weights) == {0}


def test_with_what_drift_measures(folder: Path, tmp_path: Path) -> None:
    """Each epoch, on the run's own text; what ends up is within the budget when it is measured again."""
    drift = Drift(num_sequences=6, length=12, every_n_steps=1)
    weights, watch = run(folder, drift, DriftBudget(0.01, on_exceeded="restore"), trainer={"default_root_dir": str(tmp_path / "run")}, steps=9)
    rows = read_json_lines(tmp_path / "run" / "drift.jsonl")
    exceeded = next(row for row in rows if row["kl"] - 2 * row["kl_se"] > 0.01)
    assert rows[-1] == exceeded and exceeded["step"] > 1
    assert same(weights, watch.weights[exceeded["step"] - 1]) and watch.metrics["drift/kl"] == pytest.approx(rows[-2]["kl"])


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`kl` must lie in \[0, inf\), got -1"):
        DriftBudget(-1)
    with pytest.raises(ValueError, match=r"`errors` must lie in \[0, inf\), got nan"):
        DriftBudget(1, errors=float("nan"))
    with pytest.raises(ValueError, match="`on_exceeded` must be stop or restore, got pause"):
        DriftBudget(1, on_exceeded="pause")  # type: ignore[arg-type]
    for callbacks in ([DriftBudget(1), Script({})], [Drift(every_n_epochs=None), DriftBudget(1)]):  # one after it, one that measures in test alone
        with pytest.raises(ValueError, match="`drift/kl`, which nothing before it logs during fit; put a `Drift` with an interval before it."):
            run(folder, *callbacks)

    class Split:
        strategy: DeepSpeedStrategy = DeepSpeedCPUStrategy()
        callbacks: list[Callback] = []

    budget = DriftBudget(1, on_exceeded="restore")
    Split.callbacks = [Script({}), budget]
    with pytest.raises(ValueError, match=r"an engine splits them or their optimizer \(DeepSpeed, FSDP2\); use `stop`"):
        budget.setup(Split(), None, "fit")  # type: ignore[arg-type]
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1)
    run(folder, keep, steps=1, trainer={"enable_checkpointing": True})
    (checkpoint,) = tmp_path.glob("*.ckpt")
    with pytest.raises(ValueError, match="`on_exceeded: restore` must watch a run from its start"):
        run(folder, Script({2: 0.0}), DriftBudget(1, on_exceeded="restore"), ckpt_path=str(checkpoint))
