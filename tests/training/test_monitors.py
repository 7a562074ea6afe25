"""What a callback watches is checked before the first step; callbacks of others work, or are refused by name."""

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.loggers import CSVLogger

from lit_talr.callbacks import DomainScore, Drift, VisibleUpdate, WholeCheckpoint
from lit_talr.domains import Records
from lit_talr.losses import TALR, Standard
from lit_talr.modeling.generation import Generation
from lit_talr.module import DomainSFT
from lit_talr.training.monitors import check_monitor, logged_names
from lit_talr.training.supported import REFUSED
from tests.helpers.fits import fit, records, write_data

SMALL: dict[str, Any] = {"limit_val_batches": 1.0, "enable_checkpointing": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitors")
    write_data(folder, num_rows=8)
    return folder


class Steps(Callback):
    """Counts what was trained, logs the number, and keeps the names of all that was logged."""

    taken = 0

    def metric_names(self, module: DomainSFT) -> list[str]:
        return ["own/steps"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.taken += 1
        pl_module.log("own/steps", float(self.taken))

    def on_fit_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.logged, self.known = set(trainer.callback_metrics) - {"epoch"}, logged_names(trainer, pl_module)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (theirs.EarlyStopping("val/loss"), "`EarlyStopping` monitors `val/loss`, which this run does not log; did you mean `val/nll`? It logs val/nll, "),
        (theirs.EarlyStopping("val_loss"), "`EarlyStopping` monitors `val_loss`, which this run does not log; did you mean `val/nll`?"),
        (WholeCheckpoint("best-{step}", monitor="val_nll"), "`WholeCheckpoint` monitors `val_nll`, which this run does not log; did you mean `val/nll`?"),
        (theirs.ModelCheckpoint(monitor="val/acuracy"), "`ModelCheckpoint` monitors `val/acuracy`, which this run does not log; did you mean `val/"),
        (theirs.EarlyStopping("train_los"), "`EarlyStopping` monitors `train_los`, which this run does not log; it logs val/nll, val/perplexity"),
        (theirs.EarlyStopping("general/drop"), "`EarlyStopping` monitors `general/drop`, which this run does not log; it logs"),
        (theirs.ModelCheckpoint(filename="{step}-{val/loss:.2f}"), "`ModelCheckpoint` names files by `val/loss`, which this run does not log; did you mean"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Callback) else "",
)
def test_a_metric_that_is_not_logged_is_refused_before_the_first_step(folder: Path, callback: Callback, message: str) -> None:
    steps = Steps()
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(folder, Standard(), steps=1, trainer={**SMALL, "callbacks": [callback, steps]})
    assert steps.taken == 0


@pytest.mark.parametrize(
    ("callback", "better"),
    [
        (theirs.EarlyStopping("val/token_accuracy"), "max"),
        (theirs.EarlyStopping("val/nll", mode="max"), "min"),
        (theirs.ModelCheckpoint(monitor="general/mean"), "max"),
        (WholeCheckpoint(monitor="general/drop", mode="max"), "min"),
    ],
)
def test_the_wrong_direction_is_refused(callback: theirs.EarlyStopping | theirs.ModelCheckpoint, better: str) -> None:
    sentence = f"^`{type(callback).__name__}` monitors `{callback.monitor}` with `mode: {callback.mode}`, .*; give `mode: {better}`\\.$"
    with pytest.raises(ValueError, match=sentence):
        check_monitor(callback)


def test_what_callbacks_and_losses_log_can_be_watched(folder: Path, tmp_path: Path) -> None:
    """``EarlyStopping`` itself refuses a metric that is not there at the end of an epoch."""
    watched = ("val/score", "val/cut", "own/steps", "drift/kl", "update/visible", "talr/temperature", "lr-AdamW")
    stops = [theirs.EarlyStopping(name, mode="max" if name == "val/score" else "min") for name in watched]
    measures = [DomainScore(every_n_epochs=1), Drift(num_sequences=2, length=4), VisibleUpdate(), theirs.LearningRateMonitor()]
    options = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1, "default_root_dir": str(tmp_path), "precision": "bf16-mixed"}
    steps = Steps()
    module: Any = partial(DomainSFT, generation=Generation(max_new_tokens=2))
    fit(folder, TALR(), 1, module, partial(torch.optim.AdamW, lr=0.01), trainer={**SMALL, **options, "callbacks": [*stops, *measures, steps]})
    assert steps.logged >= set(watched)
    assert [name for name in steps.logged if not any(fnmatchcase(name, pattern) for pattern in steps.known)] == []


def test_a_file_named_by_a_metric_lies_in_no_other_folder(folder: Path, tmp_path: Path) -> None:
    named = theirs.ModelCheckpoint(tmp_path, filename="{step}-{val/nll:.2f}-{talr/temperature:.1f}")
    fit(folder, TALR(), steps=1, trainer={**SMALL, "callbacks": [named]})
    (path,) = tmp_path.glob("*.ckpt")
    assert re.fullmatch(r"step=1-val_nll=\d\.\d\d-talr_temperature=\d\.\d\.ckpt", path.name)


def test_validation_that_is_off_measures_nothing(folder: Path) -> None:
    with pytest.raises(ValueError, match="`val/nll`, which nothing measures, since `trainer.limit_val_batches: 0`"):
        fit(folder, Standard(), steps=1, trainer={"callbacks": [theirs.EarlyStopping("val/nll")]})


def without_validation(folder: Path) -> Records:
    return replace(records(folder), val=None)


def test_a_run_without_validation_rows(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callbacks = [WholeCheckpoint("best-{step}", monitor="val/nll"), WholeCheckpoint()]
    options = {"limit_val_batches": None, "enable_checkpointing": True, "default_root_dir": str(tmp_path)}
    fit(folder, Standard(), steps=2, data=without_validation, trainer={**options, "callbacks": callbacks})
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last-step=2.ckpt"]
    assert "`WholeCheckpoint` with `monitor: val/nll` is left out, since there are no validation rows." in caplog.text
    assert "There are no validation rows, so `val/nll` is not measured; `data.val` gives a file of them, `data.validation` a share" in caplog.text
    for callback, message in (
        (theirs.EarlyStopping("val/nll"), "`EarlyStopping` monitors `val/nll`, which nothing measures, since there are no validation rows; "),
        (DomainScore(every_n_epochs=1), "`DomainScore` with `every_n_epochs: 1` measures where validation ends, and there are no validation rows; give "),
    ):
        with pytest.raises(ValueError, match=message):
            fit(folder, Standard(), steps=1, data=without_validation, trainer={**options, "callbacks": [callback]})


def test_callbacks_of_lightning_work(folder: Path, tmp_path: Path) -> None:
    """All that are not refused, at once; what they do is theirs to test."""
    callbacks = [
        theirs.EarlyStopping("val/nll"),
        theirs.ModelCheckpoint(tmp_path / "own", filename="{epoch}-{val/nll:.3f}", monitor="val/nll", save_last=True),
        theirs.LearningRateMonitor(),
        theirs.DeviceStatsMonitor(cpu_stats=False),
        theirs.Timer(duration="00:01:00:00"),
        theirs.ThroughputMonitor(batch_size_fn=lambda batch: max(1, len(batch["ids"]))),
        theirs.ModelSummary(),
        theirs.RichModelSummary(),
        theirs.LambdaCallback(on_train_start=lambda trainer, module: None),
        theirs.TQDMProgressBar(refresh_rate=0),
    ]
    options = {**SMALL, "callbacks": callbacks, "logger": CSVLogger(tmp_path), "log_every_n_steps": 1, "enable_progress_bar": True}
    fit(folder, Standard(), steps=2, trainer={**options, "enable_model_summary": True})
    names = sorted(path.name for path in (tmp_path / "own").iterdir())
    assert re.fullmatch(r"epoch=\d-val_nll=\d\.\d{3}\.ckpt", names[0]) and names[1] == "last.ckpt"
    assert "lr-SGD" in next(tmp_path.rglob("metrics.csv")).read_text()
    everything = {getattr(theirs, name) for name in theirs.__all__}
    bases = {theirs.Callback, theirs.Checkpoint, theirs.ProgressBar, theirs.RichProgressBar}  # of these and of our own
    assert {kind for kind in everything - bases if not issubclass(kind, tuple(REFUSED))} == set(map(type, callbacks)) & everything | {
        *(theirs.EarlyStopping, theirs.ModelCheckpoint)  # which have become ours
    }


@pytest.mark.parametrize(
    "callback",
    [
        theirs.GradientAccumulationScheduler({0: 1}),
        theirs.BatchSizeFinder(),
        theirs.LearningRateFinder(),
        theirs.StochasticWeightAveraging(1e-3),
        theirs.EMAWeightAveraging(),
        theirs.BackboneFinetuning(),
        theirs.ModelPruning("l1_unstructured", amount=0.5),
        theirs.SpikeDetection(),
        theirs.OnExceptionCheckpoint("."),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_that_cannot_work_are_refused_by_name(folder: Path, callback: Callback) -> None:
    module = DomainSFT(Standard(), pretrained=str(folder / "model"))
    with pytest.raises(ValueError, match=f"^`{type(callback).__name__}` is not supported: .*[;,].*\\.$"):
        module.check(Trainer(accelerator="cpu", max_steps=1, callbacks=[callback], logger=False))


class Fail(Callback):
    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise OSError("the disk of this callback is full")


def test_early_stopping_judges_the_epoch_that_a_callback_s_error_ended(folder: Path, tmp_path: Path) -> None:
    """The epoch of such a checkpoint does not end again, but its measurement is repeated, and judged."""

    def run(name: str, *callbacks: Callback, ckpt_path: str | None = None) -> theirs.EarlyStopping:
        stopping = theirs.EarlyStopping("val/nll", patience=100)
        options = {**SMALL, "default_root_dir": str(tmp_path / name), "callbacks": [*callbacks, stopping, WholeCheckpoint()], "max_epochs": 3}
        fit(folder, Standard(), steps=-1, trainer=options, ckpt_path=ckpt_path)
        return stopping

    whole = run("whole")
    with pytest.raises(OSError, match="the disk of this callback"):
        run("failed", Fail())
    (last,) = (tmp_path / "failed" / "checkpoints").iterdir()
    resumed = run("failed", ckpt_path=str(last))
    assert last.name == "last-step=2.ckpt" and resumed.state_dict() == whole.state_dict()
