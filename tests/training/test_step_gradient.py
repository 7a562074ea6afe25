"""The gradient of an optimizer step does not depend on how the step is split. SGD, so that nothing hides a wrong scale."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lit_talr.data.encoded import Batch
from lit_talr.losses import DFT, EAFT, L2, TALR, LossStrategy, Standard
from lit_talr.module import DomainSFT
from lit_talr.training.building import Compute
from tests.helpers.fits import LOSSES, distance, fit, records

PACKED = {"micro_batch_tokens": 300, "packing": True}


def test_packed_rows_hold_several_examples_and_some_micro_batches_none(folder: Path) -> None:
    """So that the tests below are of what they say."""
    data = records(folder, **PACKED)
    data.trainer = Trainer(accelerator="cpu", devices=1, max_epochs=10, logger=False, enable_progress_bar=False)
    data.setup("fit")
    assert data.train_plan is not None
    sizes = Counter(len(micro_batch.ids) for step in range(data.train_plan.steps_per_epoch) for micro_batch in data.train_plan.micro_batches(step))
    assert sizes[2] + sizes[3] > 3 and sizes[0] > 0


@pytest.fixture(scope="module")
def start(folder: Path) -> dict[str, Tensor]:
    return fit(folder, Standard(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0), steps=1)


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {name: fit(folder, loss(), batching={"micro_batch_size": 8}) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "batching",
    [{"micro_batch_size": 2}, {"micro_batch_tokens": 150}, PACKED, *(pytest.param({"micro_batch_size": size}, marks=pytest.mark.slow) for size in (1, 4))],
    ids=str,
)
def test_a_step_is_the_same_however_it_is_split(folder: Path, start: Any, whole: Any, name: str, batching: dict[str, int]) -> None:
    split = fit(folder, LOSSES[name](), batching=batching)
    assert distance(split, whole[name], start) < 1e-10


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_the_same_by_torchs_own_head(folder: Path, start: Any, whole: Any, name: str) -> None:
    other = fit(folder, LOSSES[name](), module_class=partial(DomainSFT, compute=Compute(head_kernel="torch")), batching={"micro_batch_size": 4})
    assert distance(other, whole[name], start) < 1e-10


def test_a_step_is_the_same_with_and_without_logits_kept(folder: Path, start: Any, whole: Any) -> None:
    twice = fit(folder, LOSSES["talr-step"](), module_class=partial(DomainSFT, compute=Compute(kept_logits=0)), batching={"micro_batch_size": 4})
    assert distance(twice, whole["talr-step"], start) < 1e-10
    with pytest.raises(ValueError, match="`model.compute.kept_logits` must be at least 0, got -1; it is a number of bytes, and 0 keeps none"):
        Compute(kept_logits=-1)


@pytest.mark.parametrize(
    ("kernel", "loss", "options", "message"),
    [
        ("torch", EAFT(), {}, "gives neither `correct` nor entropies; use the head `own`"),
        ("torch", Standard(), {"precision": "bf16-mixed"}, "rounds the NLLs of torch.bfloat16 operands.*; use the head `own`, or float32"),
        ("liger", Standard(), {}, "`model.compute.head_kernel: liger` is for Hopper GPUs .H100, H200.; use the head `own`"),
        ("fused", Standard(), {}, "`model.compute.head_kernel` must be one of own, torch, liger, got 'fused'"),
    ],
)
def test_a_head_that_cannot_do_it_is_refused_before_the_first_step(
    folder: Path, kernel: str, loss: LossStrategy, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(folder, loss, module_class=lambda *a, **o: DomainSFT(*a, **o, compute=Compute(head_kernel=kernel)), trainer=options)


def test_the_losses_differ(start: Any, whole: Any) -> None:
    assert distance(whole["talr-step"], whole["standard"], start) > 1e-3
    assert distance(whole["l2"], whole["standard"], start) > 1e-3


def test_packing_without_an_attention_that_is_known_to_isolate_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.modeling.families.ISOLATING", ("eager", "flex_attention"))
    message = "`data.batching.packing` needs an attention that isolates .*which `sdpa` is not known to do; set `model.compute.attention` to one of eager, flex"
    with pytest.raises(ValueError, match=message):
        fit(folder, Standard(), batching=PACKED)


class NaiveStandard(DomainSFT):
    """The step's gradient by the formula itself: one forward of every example alone, full logits, one sum over N."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        assert self.backbone is not None
        super().training_step(batch, batch_idx)
        total = torch.zeros((), dtype=torch.float64)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            width = len(labels) - int((labels.flip(0) != -100).int().argmax())  # without padding
            logits = self.backbone.model(input_ids=ids[None, :width]).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits, labels[:width], ignore_index=-100, reduction="sum")
        return {"loss": total / batch["num_items_in_batch"]}


def test_standard_is_the_mean_over_all_tokens_of_the_step(folder: Path, start: Any, whole: Any) -> None:
    naive = fit(folder, Standard(), module_class=NaiveStandard, batching={"micro_batch_size": 8})
    assert distance(whole["standard"], naive, start) < 1e-10


class PlainLightning(DomainSFT):
    """What a Lightning user writes: the mean of the micro-batch, which Lightning averages over micro-batches."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        super().training_step(batch, batch_idx)
        stats = self.token_stats(batch)
        mean = self.loss(stats, self.loss.weights(stats)) / stats.mask.sum().clamp(min=1)
        return {"loss": mean, "stats": stats}


def test_plain_lightning_averaging_weighs_tokens_unequally(folder: Path, start: Any, whole: Any) -> None:
    """The documented counter-example: the same model, rows and steps, with the usual averages, end elsewhere when a step is split."""
    unsplit = fit(folder, Standard(), module_class=PlainLightning, batching={"micro_batch_size": 8})
    split = fit(folder, Standard(), module_class=PlainLightning, batching={"micro_batch_size": 2})
    assert distance(unsplit, whole["standard"], start) < 1e-10
    assert distance(split, whole["standard"], start) > 1e-2


@pytest.mark.parametrize("loss", [TALR(), DFT(), L2(TALR(), coefficient=0.01)], ids=["talr", "dft", "l2-talr"])
def test_other_losses_train(folder: Path, start: Any, loss: Any) -> None:
    weights = fit(folder, loss, steps=2)
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert any(not torch.equal(weights[name], start[name]) for name in start)
