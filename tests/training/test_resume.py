"""A run that was stopped and resumed ends with the weights of one that was not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_talr.losses import Standard
from tests.helpers.fits import LOSSES, QWEN3, SGD, distance, fit

ADAMW = partial(torch.optim.AdamW, lr=0.01)


@pytest.mark.parametrize(
    ("name", "optimizer", "stop", "micro_batch_size"),
    [
        ("standard", ADAMW, 6, 4),  # between two epochs
        ("talr-step", SGD, 4, 4),  # inside one
        ("l2", ADAMW, 4, 4),
    ],
)
def test_resumed_is_bitwise_uninterrupted(folder: Path, tmp_path: Path, name: str, optimizer: object, stop: int, micro_batch_size: int) -> None:
    """An epoch has three steps of two micro-batches."""
    options: dict[str, Any] = {"optimizer": optimizer, "batching": {"micro_batch_size": micro_batch_size}}
    whole = fit(folder, LOSSES[name](), steps=8, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1)
    fit(folder, LOSSES[name](), steps=stop + 1, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, LOSSES[name](), steps=8, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("steps", "trainer"),
    [
        (3, {}),  # saved after the validation at the end of an epoch
        (4, {}),  # after the one where the run ended, inside an epoch
        (5, {"val_check_interval": 3}),  # after one inside a step of two micro-batches
    ],
    ids=["epoch end", "end of the run", "inside a step"],
)
@pytest.mark.parametrize("resume", [{}, {"limit_val_batches": 0}], ids=["", "without validation"])
def test_checkpoints_of_validation_resume_too(folder: Path, tmp_path: Path, steps: int, trainer: dict[str, Any], resume: dict[str, Any]) -> None:
    batching = {"micro_batch_size": 4}
    whole = fit(folder, Standard(), steps=8, optimizer=ADAMW, batching=batching)
    keep = ModelCheckpoint(dirpath=tmp_path, monitor="val/nll", save_top_k=-1, save_last=False)
    options = {"enable_checkpointing": True, "callbacks": [keep], "limit_val_batches": None, **trainer}
    fit(folder, Standard(), steps=steps, optimizer=ADAMW, batching=batching, trainer=options)
    checkpoint = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    resumed = fit(folder, Standard(), steps=8, optimizer=ADAMW, batching=batching, ckpt_path=str(checkpoint), trainer={"limit_val_batches": None, **resume})
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize("stop", [3, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 8])
def test_a_run_can_go_on_in_another_layout(folder: Path, tmp_path: Path, stop: int, micro_batch_size: int) -> None:
    whole = fit(folder, LOSSES["talr-step"](), steps=8, batching={"micro_batch_size": 4})
    start = fit(folder, Standard(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1)
    options = {"enable_checkpointing": True, "callbacks": [keep]}
    fit(folder, LOSSES["talr-step"](), steps=stop, batching={"micro_batch_size": 4}, trainer=options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, LOSSES["talr-step"](), steps=8, batching={"micro_batch_size": micro_batch_size}, ckpt_path=str(checkpoint))
    assert distance(resumed, whole, start) < 1e-10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": Standard()}, r"The checkpoint is of another run: its model.loss is L2\(coefficient=0.05\) around Standard\(\), here Standard\(\)"),
        ({"optimizer": ADAMW}, "its model.optimizer is SGD, here AdamW"),
        ({"batching": {"batch_size": 4}}, "its data.batching.batch_size is 8, here 4"),
        ({"architecture": {**QWEN3, "num_hidden_layers": 1}}, "The checkpoint is of another model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(folder: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(folder, LOSSES["l2"](), steps=1, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = tmp_path.glob("*.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(folder, steps=2, ckpt_path=str(checkpoint), **{"loss": LOSSES["l2"](), **changed})


def test_dropout_is_that_of_the_uninterrupted_run(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"architecture": {**QWEN3, "attention_dropout": 0.3}, "batching": {"micro_batch_size": 4}}
    whole = fit(folder, Standard(), steps=5, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    fit(folder, Standard(), steps=2, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, Standard(), steps=5, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    without = fit(folder, Standard(), steps=5, batching={"micro_batch_size": 4})
    assert not all(torch.equal(without[key], whole[key]) for key in whole)


def test_deterministic_runs_are_bitwise_equal(folder: Path) -> None:
    once, again = (fit(folder, LOSSES["talr-step"](), steps=4, trainer={"deterministic": True, "precision": "32-true"}) for _ in range(2))
    assert all(torch.equal(once[key], again[key]) for key in once)
