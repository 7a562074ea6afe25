"""A run that was stopped and resumed ends with the weights of one that was not."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.fits import LOSSES, SGD, fit, write_data

ADAMW = partial(torch.optim.AdamW, lr=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "optimizer", "stop"),
    [("standard", ADAMW, 6), ("talr-step", SGD, 4), ("l2", ADAMW, 4), ("l2", SGD, 6)],  # inside an epoch, and between two
)
def test_resumed_is_bitwise_uninterrupted(folder: Path, tmp_path: Path, name: str, optimizer: object, stop: int) -> None:
    """An epoch has three steps of two micro-batches."""
    batching = {"micro_batch_size": 4}
    whole = fit(folder, LOSSES[name](), steps=8, optimizer=optimizer, batching=batching)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1)
    options = {"enable_checkpointing": True, "callbacks": [keep]}
    fit(folder, LOSSES[name](), steps=stop + 1, optimizer=optimizer, batching=batching, trainer=options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, LOSSES[name](), steps=8, optimizer=optimizer, batching=batching, ckpt_path=str(checkpoint))
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_deterministic_runs_are_bitwise_equal(folder: Path) -> None:
    once, again = (fit(folder, LOSSES["talr-step"](), steps=4, trainer={"deterministic": True, "precision": "32-true"}) for _ in range(2))
    assert all(torch.equal(once[key], again[key]) for key in once)
