"""AdamW over 50 steps: two ranks log the loss of every step that one process logs. Torchrun runs this file too."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lit_talr.losses import L2, TALR, LossStrategy
from lit_talr.modeling.strategies import end_process
from tests.distributed.cases import torchrun
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit

STEPS = 50
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


class Curve(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))


def curve(folder: Path, trainer: dict[str, Any], micro_batch_size: int) -> list[float]:
    loss: LossStrategy = L2(TALR(scope="step"), coefficient=0.05)
    options = {"precision": "32-true", "gradient_clip_val": 1.0, "max_epochs": 20, "callbacks": [watch := Curve()], **trainer}
    fit(folder, loss, steps=STEPS, optimizer=partial(torch.optim.AdamW, lr=0.01), batching={"micro_batch_size": micro_batch_size}, trainer=options)
    return watch.losses


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    out = tmp_path_factory.mktemp("curves") / "curves.json"
    torchrun("tests.distributed.test_curves", str(folder), str(out))
    return json.loads(out.read_text())


def test_every_strategy_follows_one_process(folder: Path, two_ranks: dict[str, list[float]]) -> None:
    alone = torch.tensor(curve(folder, {}, 8))
    assert len(alone) == STEPS and alone[-1] < 0.5 * alone[0]
    assert two_ranks.keys() == STRATEGIES.keys()
    for strategy, losses in two_ranks.items():
        torch.testing.assert_close(torch.tensor(losses), alone, rtol=1e-3, atol=0, msg=lambda text, strategy=strategy: f"{strategy}: {text}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: curve(Path(sys.argv[1]), {"strategy": make(), "devices": 2, "default_root_dir": sys.argv[2] + name}, 2) for name, make in STRATEGIES.items()}
    if os.environ["RANK"] == "0":
        Path(sys.argv[2]).write_text(json.dumps(found))
    end_process()
