"""ASFT: its formula with full logits of two models, one of them frozen, however the step is split; and where the frozen model is."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.data.encoded import Batch
from lit_talr.losses import ASFT, DFT, L2, TokenStats
from lit_talr.losses.base import Setting
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.module import DomainSFT
from tests.helpers.fits import QWEN3, distance, fit, write_data

SGD = partial(torch.optim.SGD, lr=0.3)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asft") / "run"
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def start(own: Path) -> dict[str, Tensor]:
    return fit(own, DFT(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.0))


@pytest.fixture(scope="module")
def tuned(own: Path) -> dict[str, Tensor]:
    return fit(own, ASFT(2.0), batching={"micro_batch_size": 8})


class Naive(DomainSFT):
    """The step's gradient by the formula itself: both models' logits of every token, one example after the other."""

    @torch.no_grad()
    def on_fit_start(self) -> None:
        self.frozen = (AutoModelForCausalLM.from_pretrained(str(self.pretrained), dtype=torch.float64).eval(),)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        assert self.backbone is not None
        super().training_step(batch, batch_idx)
        total = torch.zeros((), dtype=torch.float64)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            width = len(labels) - int((labels.flip(0) != -100).int().argmax())  # without padding
            logs = [model(input_ids=ids[None, :width]).logits[0].log_softmax(-1) for model in (self.backbone.model, self.frozen[0])]
            places = (labels[:width] != -100).nonzero()[:, 0]
            own, other = (found[places] for found in logs)
            chosen = own.gather(1, labels[places, None])[:, 0]
            total = total - (chosen.detach().exp() * chosen).sum() + 2.0 * torch.nn.functional.kl_div(own, other.detach(), reduction="sum", log_target=True)
        return {"loss": total / batch["num_items_in_batch"]}


def test_training_is_that_of_the_naive_formula(own: Path, start: Any, tuned: Any) -> None:
    naive = fit(own, DFT(), module_class=Naive, batching={"micro_batch_size": 8})
    assert distance(tuned, naive, start) < 1e-10


@pytest.mark.parametrize("batching", [{"micro_batch_tokens": 300, "packing": True}, pytest.param({"micro_batch_size": 1}, marks=pytest.mark.slow)], ids=str)
def test_a_step_is_the_same_however_it_is_split(own: Path, start: Any, tuned: Any, batching: dict[str, int]) -> None:
    assert distance(fit(own, ASFT(2.0), batching=batching), tuned, start) < 1e-10


def test_without_a_pull_it_is_dft(own: Path, start: Any, tuned: Any) -> None:
    dft = fit(own, DFT(), batching={"micro_batch_size": 8})
    assert distance(fit(own, ASFT(0.0), batching={"micro_batch_size": 8}), dft, start) < 1e-12
    assert distance(tuned, dft, start) > 1e-2, "with one it is not"


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


@pytest.mark.parametrize(
    ("adapter", "precision"),
    [
        (None, "bf16-mixed"),
        (LoRA(r=2, alpha=2, dropout=0.5), "32-true"),
        pytest.param(None, "32-true", marks=pytest.mark.slow),
        pytest.param(LoRA(r=2, alpha=2, dropout=0.5), "bf16-mixed", marks=pytest.mark.slow),
    ],
    ids=["full-bf16", "lora-fp32", "full-fp32", "lora-bf16"],
)
def test_the_divergence_begins_at_nothing_and_grows(own: Path, adapter: Adapter | None, precision: str) -> None:
    """Also with dropout in the adapters: they begin at 0, and the base model has none."""
    fit(own, ASFT(), steps=4, module_class=Seen, adapter=adapter, trainer={"precision": precision}, optimizer=partial(torch.optim.SGD, lr=3.0))
    first, *_, last = [stats.base_kl for stats in Seen.last.stats if stats.mask.any()]
    assert first is not None and last is not None and first.dtype == torch.float32 and not last.requires_grad
    assert float(first.abs().max()) < 1e-9 < 1e-7 < float(last.max()) and float(last.min()) >= 0
    assert float(Seen.last.loss.metrics()["asft/kl"]) > 1e-8
    assert (Seen.last.base.backbone is None) == (adapter is not None), "LoRA's adapters are switched off, and there is no second model"


@pytest.mark.slow
def test_adapters_off_are_the_base_model_itself(own: Path) -> None:
    options: dict[str, Any] = {"adapter": LoRA(r=2, alpha=2), "optimizer": partial(torch.optim.AdamW, lr=0.05), "steps": 2}
    switched = fit(own, ASFT(2.0), **options)

    class Second(DomainSFT):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            self.base = self.base._replace(backbone=self.base_model().load(self.trainer))

    second = fit(own, ASFT(2.0), module_class=Second, **options)
    for name, value in switched.items():
        torch.testing.assert_close(value, second[name], rtol=1e-12, atol=1e-14)


def test_a_checkpoint_holds_one_model_and_resumes_bitwise(own: Path) -> None:
    options: dict[str, Any] = {"batching": {"micro_batch_size": 4}, "optimizer": partial(torch.optim.AdamW, lr=0.01)}
    whole = fit(own, L2(ASFT(), coefficient=0.01), steps=6, **options)
    keep = ModelCheckpoint(dirpath=own / "kept", every_n_train_steps=4, save_top_k=-1)
    fit(own, L2(ASFT(), coefficient=0.01), steps=5, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = (own / "kept").glob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=False)["state_dict"]
    assert {name.removeprefix("backbone.model.") for name in saved} - {"lm_head.weight"} == whole.keys() - {"lm_head.weight"}
    resumed = fit(own, L2(ASFT(), coefficient=0.01), steps=6, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match=r"its model.loss.loss.coefficient is 0.1, here 0.2"):
        fit(own, L2(ASFT(0.2), coefficient=0.01), steps=6, ckpt_path=str(checkpoint), **options)


def test_a_resumed_run_must_be_anchored_to_the_same_model(tmp_path: Path) -> None:
    write_data(tmp_path / "run")
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path / "run", ASFT(), steps=1, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = (tmp_path / "kept").glob("*.ckpt")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(tmp_path / "run" / "model")
    with pytest.raises(ValueError, match=r"its model.pretrained \(hash of its weights\) is"):
        fit(tmp_path / "run", ASFT(), steps=2, ckpt_path=str(checkpoint))


def test_the_sum_and_its_gradient() -> None:
    """By hand: two supervised tokens and one that is not, whose divergence is no number."""
    nll, kl = torch.tensor([[0.5, 0.0, 2.0]], requires_grad=True), torch.tensor([[0.3, torch.nan, 0.1]], requires_grad=True)
    stats = TokenStats(nll, torch.tensor([[True, False, True]]), torch.zeros(1, 3, dtype=torch.long), base_kl=kl)
    loss = ASFT(0.5)
    loss.observe(stats, loss.weights(stats))
    value = loss(stats, loss.weights(stats))
    weights = torch.tensor([0.5, 2.0]).neg().exp()
    assert value.item() == pytest.approx(float(weights @ torch.tensor([0.5, 2.0])) + 0.5 * 0.4)
    value.backward()
    assert nll.grad is not None and kl.grad is not None
    torch.testing.assert_close(nll.grad, torch.tensor([[weights[0], 0.0, weights[1]]]))
    torch.testing.assert_close(kl.grad, torch.tensor([[0.5, 0.0, 0.5]]))
    loss.step_end()
    assert float(loss.metrics()["asft/kl"]) == pytest.approx(0.2)


def test_refusals(own: Path) -> None:
    with pytest.raises(ValueError, match="`coefficient` must lie in .0, inf., got -1"):
        ASFT(-1)
    with pytest.raises(ValueError, match="`coefficient` must lie in .0, inf., got nan"):
        ASFT(float("nan"))
    with pytest.raises(ValueError, match="ASFT compares with the base model, and random weights say nothing; give `model.pretrained`"):
        fit(own, ASFT(), architecture=QWEN3)
    with pytest.raises(ValueError, match=r"ASFT runs the base model next to .* every weight is sharded \(ZeRO-3, FSDP2\); use configs/strategy/ddp.yaml"):
        L2(ASFT()).check(Setting(sharded=True, sharded_weights=True))
    ASFT().check(Setting(sharded=True))  # ZeRO-1 and ZeRO-2
