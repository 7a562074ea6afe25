"""KL and MaskTheTarget: their formulas with full logits of two models, one of them frozen, however the step is split, and around any loss."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.data.encoded import Batch
from lit_talr.losses import ASFT, DFT, KL, TALR, InfoSFT, LossStrategy, MaskTheTarget, TokenStats
from lit_talr.losses.base import Setting
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.module import DomainSFT
from tests.helpers.fits import QWEN3, distance, fit, write_data
from tests.helpers.params import first_is_fast

LOSSES: dict[str, Callable[[], LossStrategy]] = {"kl": lambda: KL(InfoSFT(), 2.0), "mask": lambda: MaskTheTarget(InfoSFT(), 2.0)}
STILL = partial(torch.optim.SGD, lr=0.0)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kl") / "run"
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def start(own: Path) -> dict[str, Tensor]:
    return fit(own, DFT(), steps=1, optimizer=STILL)


@pytest.fixture(scope="module")
def tuned(own: Path) -> dict[str, dict[str, Tensor]]:
    return {name: fit(own, loss(), batching={"micro_batch_size": 8}) for name, loss in LOSSES.items()}


class Naive(DomainSFT):
    """The step's gradient by the formula itself: both models' logits of every token, one example after the other."""

    masked = False

    @torch.no_grad()
    def on_fit_start(self) -> None:
        self.frozen = (AutoModelForCausalLM.from_pretrained(str(self.pretrained), dtype=torch.float64).eval(),)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        assert self.backbone is not None
        super().training_step(batch, batch_idx)
        total = torch.zeros((), dtype=torch.float64)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            width = len(labels) - int((labels.flip(0) != -100).int().argmax())  # without padding
            places = (labels[:width] != -100).nonzero()[:, 0]
            own, other = (model(input_ids=ids[None, :width]).logits[0][places] for model in (self.backbone.model, self.frozen[0]))
            targets = labels[places, None]
            probability = own.softmax(1).gather(1, targets)
            logit = (probability / (1 - probability)).log()
            weight = (probability * (1 - logit / torch.tensor(0.93 / 0.07, dtype=torch.float64).log()).clamp(min=0)).detach()
            if self.masked:
                others = torch.arange(own.shape[1]) != targets
                own, other = (values[others].view(len(places), -1) for values in (own, other))
            p, p_0 = own.softmax(1), other.softmax(1).detach()
            total = total - (weight * probability.log()).sum() + 2.0 * (p_0 * (p_0 / p).log()).sum()
        return {"loss": total / batch["num_items_in_batch"]}


class NaiveMasked(Naive):
    masked = True


@pytest.mark.parametrize(("name", "naive"), [("kl", Naive), ("mask", NaiveMasked)])
def test_training_is_that_of_the_naive_formula(own: Path, start: Any, tuned: Any, name: str, naive: Any) -> None:
    assert distance(tuned[name], fit(own, DFT(), module_class=naive, batching={"micro_batch_size": 8}), start) < 1e-10


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_the_same_however_it_is_split(own: Path, start: Any, tuned: Any, name: str) -> None:
    assert distance(fit(own, LOSSES[name](), batching={"micro_batch_tokens": 300, "packing": True}), tuned[name], start) < 1e-10


def test_the_two_differ_and_both_do_something(start: Any, own: Path, tuned: Any) -> None:
    plain = fit(own, InfoSFT(), batching={"micro_batch_size": 8})
    assert min(distance(tuned["kl"], plain, start), distance(tuned["mask"], plain, start), distance(tuned["mask"], tuned["kl"], start)) > 1e-3


def test_around_dft_it_is_asft(own: Path) -> None:
    options: dict[str, Any] = {"steps": 3, "batching": {"micro_batch_size": 4}}
    kl, asft = fit(own, KL(DFT(), 2.0), **options), fit(own, ASFT(2.0), **options)
    assert all(torch.equal(kl[name], asft[name]) for name in kl)


class Seen(DomainSFT):
    """Records the statistics that the loss saw."""

    last: "Seen"
    stats: list[TokenStats]

    def on_fit_start(self) -> None:
        self.stats = []
        Seen.last = self

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        output = super().training_step(batch, batch_idx)
        self.stats.append(output["stats"])
        return output


@pytest.mark.parametrize(("adapter", "precision"), [(None, "bf16-mixed"), (LoRA(r=2, alpha=2, dropout=0.5), "32-true")], ids=["full-bf16", "lora-fp32"])
def test_both_divergences_begin_at_nothing_and_grow(own: Path, adapter: Adapter | None, precision: str) -> None:
    loss = KL(MaskTheTarget(TALR(scope="step")))
    fit(own, loss, steps=4, module_class=Seen, adapter=adapter, trainer={"precision": precision}, optimizer=partial(torch.optim.SGD, lr=3.0))
    first, *_, last = [stats for stats in Seen.last.stats if stats.mask.any()]
    for name in ("base_kl", "masked_kl"):
        began, ended = getattr(first, name), getattr(last, name)
        assert began.dtype == torch.float32 and not ended.requires_grad and float(ended.min()) >= 0
        assert float(began.abs().max()) < 1e-9 < 1e-7 < float(ended.max())
    assert loss.metrics().keys() == {"talr/temperature", "mask_the_target/divergence", "kl/divergence"}
    assert float(loss.metrics()["kl/divergence"]) > 1e-8


@pytest.mark.parametrize("wrapper", first_is_fast(KL, MaskTheTarget))
def test_a_run_resumes_bitwise(own: Path, tmp_path: Path, wrapper: type[KL | MaskTheTarget]) -> None:
    options: dict[str, Any] = {"batching": {"micro_batch_size": 4}, "optimizer": partial(torch.optim.AdamW, lr=0.01)}
    whole = fit(own, wrapper(TALR(scope="step"), 0.5), steps=6, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1)
    fit(own, wrapper(TALR(scope="step"), 0.5), steps=5, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(own, wrapper(TALR(scope="step"), 0.5), steps=6, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match=r"its model.loss.coefficient is 0.5, here 0.25"):
        fit(own, wrapper(TALR(scope="step"), 0.25), steps=6, ckpt_path=str(checkpoint), **options)


@pytest.mark.parametrize(("wrapper", "field"), [(KL, "base_kl"), (MaskTheTarget, "masked_kl")])
def test_the_sum_and_its_gradient(wrapper: type[KL | MaskTheTarget], field: str) -> None:
    """By hand: two supervised tokens and one that is not, whose divergence is no number."""
    nll, kl = torch.tensor([[0.5, 0.0, 2.0]], requires_grad=True), torch.tensor([[0.3, torch.nan, 0.1]], requires_grad=True)
    stats = TokenStats(nll, torch.tensor([[True, False, True]]), torch.zeros(1, 3, dtype=torch.long))._replace(**{field: kl})
    loss = wrapper(DFT(), 0.5)
    assert loss.needs == {field}
    loss.observe(stats, loss.weights(stats))
    value = loss(stats, loss.weights(stats))
    weights = torch.tensor([0.5, 2.0]).neg().exp()
    assert value.item() == pytest.approx(float(weights @ torch.tensor([0.5, 2.0])) + 0.5 * 0.4)
    value.backward()
    assert nll.grad is not None and kl.grad is not None
    torch.testing.assert_close(nll.grad, torch.tensor([[weights[0], 0.0, weights[1]]]))
    torch.testing.assert_close(kl.grad, torch.tensor([[0.5, 0.0, 0.5]]))
    loss.step_end()
    assert float(loss.metrics()[loss.metric]) == pytest.approx(0.2)


@pytest.mark.parametrize("wrapper", [KL, MaskTheTarget])
def test_refusals(own: Path, wrapper: type[KL | MaskTheTarget]) -> None:
    name = wrapper.__name__
    with pytest.raises(ValueError, match="`coefficient` must lie in .0, inf., got -1"):
        wrapper(TALR(), -1)
    with pytest.raises(ValueError, match=f"{name} compares with the base model, and random weights say nothing; give `model.pretrained`"):
        fit(own, wrapper(TALR()), architecture=QWEN3)
    with pytest.raises(ValueError, match=rf"{name} runs the base model next to .* every weight is sharded \(ZeRO-3, FSDP2\); use configs/strategy/ddp.yaml"):
        wrapper(TALR()).check(Setting(sharded=True, sharded_weights=True))
    wrapper(TALR()).check(Setting(sharded=True))  # ZeRO-1 and ZeRO-2
