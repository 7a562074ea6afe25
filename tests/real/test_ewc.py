"""The memory of training a real model with EWC."""

import gc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import AdamW

from lit_talr.data.batch_plan import Batching
from lit_talr.domains import Records
from lit_talr.losses import EWC, LossStrategy, Standard
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Constant

pytestmark = [pytest.mark.real, pytest.mark.slow]
KINDS = (torch.Tensor, torch.nn.Parameter)


class Bytes(Callback):
    """Counts the bytes of all tensors that live when a step has ended, gradients included, per trained weight.

    Not those of the cache's file, whose pages the system can drop.
    """

    value = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, *_: Any) -> None:  # type: ignore[override]
        gc.collect()
        storages = {item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in gc.get_objects() if type(item) in KINDS}
        for mapped in (tensor for fisher in pl_module.base.fishers for tensor in fisher.tensors.values()):
            storages.pop(mapped.untyped_storage().data_ptr(), None)
        number = sum(weight.numel() for weight in pl_module.parameters() if weight.requires_grad)
        assert all(weight.grad is not None for weight in pl_module.parameters())
        self.value = sum(storages.values()) / number


def bytes_of(loss: LossStrategy, model: Path, folder: Path) -> float:
    (folder / "rows.jsonl").write_text('{"prompt": "What is 17 + 25?", "response": "42"}\n' * 2)
    data = Records(**dict.fromkeys(("train", "val", "test"), str(folder / "rows.jsonl")), batching=Batching(batch_size=2))
    module, counted = DomainSFT(loss, partial(AdamW, lr=1e-6), Constant(), pretrained=str(model)), Bytes()
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    Trainer(**options, max_steps=2, callbacks=[counted], default_root_dir=str(folder / "run"), enable_model_summary=False).fit(module, data)
    return counted.value


def test_two_more_copies_of_the_weights_are_all_that_it_holds(real: Path, tmp_path: Path) -> None:
    plain, penalised = (bytes_of(loss, real, tmp_path) for loss in (Standard(), EWC(Standard(), fisher_rows=2)))
    assert plain == pytest.approx(16, abs=0.2)
    assert 23.9 < penalised < 24.3
