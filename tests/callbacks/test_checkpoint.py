"""The best checkpoints are those of an uninterrupted run, and each is best by a metric of its own weights."""

import multiprocessing
import multiprocessing.process
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_talr.callbacks import Summary, WholeCheckpoint
from lit_talr.losses import Standard
from lit_talr.module import DomainSFT
from lit_talr.utils.score import read_scores
from tests.helpers.fits import fit, records, write_data
from tests.helpers.params import first_is_fast

ROWS = {"batch_size": 4, "micro_batch_size": 2}
"""20 rows in five steps of two micro-batches an epoch."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "every epoch": {},
    "every second epoch": {"check_val_every_n_epoch": 2},
    "within the epoch": {"val_check_interval": 6},
    "inside a step": {"val_check_interval": 3},
    "across epochs": {"val_check_interval": 7, "check_val_every_n_epoch": None},
    "a share": {"val_check_interval": 0.4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    write_data(folder)
    return folder


class Validations(Callback):
    """The metric at each validation, by step."""

    def __init__(self) -> None:
        self.nll: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.nll[trainer.global_step] = float(trainer.callback_metrics["val/nll"])


def options(run: Path, *callbacks: Callback, **trainer: Any) -> dict[str, Any]:
    kept = [Summary(), WholeCheckpoint(), WholeCheckpoint(filename="best-{epoch}-{step}", monitor="val/nll", save_top_k=2), *callbacks]
    return {"default_root_dir": str(run), "limit_val_batches": 1.0, "enable_checkpointing": True, "callbacks": kept, "max_epochs": 3, **trainer}


def validate(folder: Path, path: Path) -> float:
    module = DomainSFT(Standard(), pretrained=str(folder / "model"))
    trainer = Trainer(accelerator="cpu", devices=1, precision="64-true", logger=False, default_root_dir=str(folder / "validate"), enable_progress_bar=False)
    (found,) = trainer.validate(module, datamodule=records(folder, **ROWS), ckpt_path=str(path), verbose=False, weights_only=True)
    return found["val/nll"]


def best_files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("best*"))


@pytest.mark.parametrize("schedule", first_is_fast(*SCHEDULES))
def test_every_number_is_of_the_weights_that_it_names(folder: Path, tmp_path: Path, schedule: str) -> None:
    seen = Validations()
    fit(folder, Standard(), steps=-1, batching=ROWS, trainer=options(tmp_path, seen, **SCHEDULES[schedule]))
    score = read_scores(tmp_path / "metrics.json")["fit"]["val/nll"]
    last = max(seen.nll)
    assert (
        (score.step, score.value) == (last, pytest.approx(seen.nll[last])) and score.arithmetic == "fp64" and score.num_items == 54 and score.unit == "tokens"
    )
    assert last == 15 or (schedule == "every second epoch" and last == 10)
    best = sorted(seen.nll, key=lambda step: seen.nll[step])[:2]
    names = best_files(tmp_path)
    assert sorted(int(re.findall(r"step=(\d+)", name)[0]) for name in names) == sorted(best)
    for name in names:
        path = tmp_path / "checkpoints" / name
        (state,) = [state for key, state in torch.load(path, weights_only=True)["callbacks"].items() if "val/nll" in key and "WholeCheckpoint" in key]
        recorded = next(float(value) for file, value in state["best_k_models"].items() if Path(file).name == name)
        assert recorded == pytest.approx(validate(folder, path), rel=1e-12), name


@pytest.mark.parametrize("schedule", first_is_fast(*SCHEDULES))
@pytest.mark.parametrize("at_epoch_end", [None, *(pytest.param(end, marks=pytest.mark.slow) for end in (True, False))])
def test_early_stopping_judges_each_measurement_once(
    folder: Path, tmp_path: Path, schedule: str, at_epoch_end: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[float] = []

    criteria = EarlyStopping._evaluate_stopping_criteria

    def judge(self: EarlyStopping, current: torch.Tensor) -> Any:
        judged.append(float(current))
        return criteria(self, current)

    monkeypatch.setattr(EarlyStopping, "_evaluate_stopping_criteria", judge)
    stopping, seen = EarlyStopping("val/nll", patience=100, check_on_train_epoch_end=at_epoch_end), Validations()
    fit(folder, Standard(), steps=-1, batching=ROWS, trainer=options(tmp_path, seen, stopping, **SCHEDULES[schedule]))
    assert judged and set(judged) <= set(seen.nll.values()) and len(judged) == len(set(judged))
    if at_epoch_end is False:
        assert len(judged) == len(seen.nll)


def test_what_cannot_be_right_is_refused(folder: Path, tmp_path: Path) -> None:
    for callback, message in (
        (WholeCheckpoint(monitor="val/nll", every_n_train_steps=3), "`WholeCheckpoint`: `monitor: val/nll` asks for checkpoints where the metric is measured"),
        (ModelCheckpoint(monitor="val/nll", every_n_train_steps=3), "`ModelCheckpoint`: `monitor: val/nll` asks for checkpoints where the metric is measured"),
        (WholeCheckpoint(filename="x-{step}", monitor="train/nll"), "`WholeCheckpoint` cannot watch `train/nll`, which is of the weights before a step"),
        (EarlyStopping("train/loss"), "`EarlyStopping` cannot watch `train/loss`"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            fit(folder, Standard(), steps=1, batching=ROWS, trainer=options(tmp_path, callback))


@pytest.mark.slow
def test_after_two_extensions_the_best_are_those_of_all_that_was_measured(folder: Path, tmp_path: Path) -> None:
    nll: dict[int, float] = {}
    for epochs in (2, 3, 4):
        seen = Validations()
        last = sorted((tmp_path / "checkpoints").glob("last*"))
        fit(folder, Standard(), steps=-1, batching=ROWS, ckpt_path=str(last[0]) if last else None, trainer=options(tmp_path, seen, max_epochs=epochs))
        nll |= seen.nll
    best = sorted(nll, key=lambda step: nll[step])[:2]
    assert sorted(int(re.findall(r"step=(\d+)", name)[0]) for name in best_files(tmp_path)) == sorted(best)


def fit_from_last(folder: Path, run: Path) -> None:
    """Start, or go on from the last checkpoint; the rate is large, so that the best is not always the last."""
    found = sorted((run / "checkpoints").glob("last*"), key=lambda path: int(path.stem.split("=")[1]))
    sgd = lambda weights: torch.optim.SGD(weights, lr=1.0)  # noqa: E731
    trainer = options(run, max_epochs=6, val_check_interval=4)
    fit(folder, Standard(), steps=-1, batching=ROWS, ckpt_path=str(found[-1]) if found else None, optimizer=sgd, trainer=trainer)


@pytest.mark.slow
def test_after_kills_at_any_moment_the_best_are_those_of_an_uninterrupted_run(folder: Path, tmp_path: Path) -> None:
    """Twenty kills, at random moments."""
    fork = multiprocessing.get_context("fork")

    def start(run: Path) -> multiprocessing.process.BaseProcess:
        process = fork.Process(target=fit_from_last, args=(folder, run))
        process.start()
        return process

    began = time.monotonic()
    process = start(tmp_path / "whole")
    process.join()
    assert process.exitcode == 0
    seconds = time.monotonic() - began
    draw, kills, trial = random.Random(0), 0, 0
    while kills < 20:
        run, exitcode = tmp_path / f"killed-{trial}", None
        trial += 1
        while exitcode is None:
            process = start(run)
            process.join(draw.uniform(0.1, 0.9) * seconds)
            exitcode = process.exitcode
            if exitcode is None:
                process.kill()
                process.join()
                kills += 1
        assert exitcode == 0
        assert best_files(run) == best_files(tmp_path / "whole")
        for name in best_files(run):
            one, other = (torch.load(path / "checkpoints" / name, weights_only=True)["state_dict"] for path in (run, tmp_path / "whole"))
            assert all(torch.equal(one[key], other[key]) for key in one), name
