from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.encoded import Batch
from lit_talr.losses import L2, TALR, Standard
from lit_talr.losses.base import LossStrategy
from lit_talr.modeling.strategies import FSDP2Strategy
from lit_talr.module import DomainSFT
from lit_talr.training.building import Compute
from lit_talr.training.schedules import Constant
from lit_talr.training.supported import check_strategy, check_trainer
from tests.helpers.fits import QWEN3, distance, fit, records
from tests.helpers.params import first_is_fast


class Watch(Callback):
    """Keeps what each optimizer step logged, and each micro-batch returned."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.outputs: list[dict[str, Any]] = []
        self.modules: list[DomainSFT] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append({**outputs, "num_items_in_batch": batch["num_items_in_batch"]})
        self.modules.append(pl_module)

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self.outputs:
            self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def watched_fit(folder: Path, loss: Any, **options: Any) -> Watch:
    watch = Watch()
    trainer = {"callbacks": [watch], **options.pop("trainer", {})}
    fit(folder, loss, trainer=trainer, **options)
    return watch


def test_the_logged_loss_is_the_steps_own_however_it_is_split(folder: Path) -> None:
    whole, split = (watched_fit(folder, TALR(scope="step"), batching={"micro_batch_size": size}).steps for size in (8, 2))
    assert len(whole) == len(split) == 4
    for one, other in zip(whole, split, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    assert {"train/loss", "train/nll", "train/learning_rate", "talr/temperature"} <= whole[-1].keys()
    assert whole[0]["train/loss"] == whole[0]["train/nll"]  # every weight was 1
    assert whole[-1]["train/loss"] < whole[-1]["train/nll"]


def test_the_logged_nll_is_the_mean_over_the_steps_tokens(folder: Path) -> None:
    watch = watched_fit(folder, Standard(), batching={"micro_batch_size": 4}, steps=3)
    first = watch.outputs[:2]
    total, number = (sum(float(value) for value in parts) for parts in ((o["stats"].nll.sum() for o in first), (o["stats"].mask.sum() for o in first)))
    assert number == first[0]["num_items_in_batch"]
    assert watch.steps[0]["train/nll"] == pytest.approx(total / number, rel=1e-12)


def test_what_a_step_returns_for_callbacks_carries_no_gradient(folder: Path) -> None:
    (output, *_) = watched_fit(folder, TALR(), steps=1).outputs
    assert not any(field.requires_grad for field in output["stats"] if field is not None)


def test_validation_metrics_are_token_means(folder: Path) -> None:
    """Against a loop over the examples one by one, with the model's own full logits."""
    watch = watched_fit(folder, Standard(), batching={"micro_batch_size": 3}, steps=3, trainer={"limit_val_batches": None})
    module = watch.modules[-1]
    data = records(folder)
    data.trainer = module.trainer
    data.setup("validate")
    total, right, number = 0.0, 0, 0
    assert module.backbone is not None
    module.backbone.model.double()  # the trainer's precision; it restores float32 as the default dtype only
    for index in range(4):
        batch = data.encoded["val"][MicroBatch((index,), 1)]
        mask = batch["labels"][0] != -100
        with torch.no_grad():
            logits = module.backbone.model(input_ids=batch["input_ids"]).logits[0][mask]
        labels = batch["labels"][0][mask]
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(-1) == labels).sum())
        number += len(labels)
    metrics = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    assert metrics["val/nll"] == pytest.approx(total / number, rel=1e-6)
    assert metrics["val/perplexity"] == pytest.approx(torch.tensor(total / number).exp().item(), rel=1e-5)
    assert metrics["val/token_accuracy"] == pytest.approx(right / number, rel=1e-6)


@pytest.mark.parametrize("every", first_is_fast(2, 1))
def test_gradient_checkpointing_changes_nothing(folder: Path, every: int) -> None:
    start = fit(folder, Standard(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    plain = fit(folder, TALR(), steps=2)

    class Checkpointed(DomainSFT):
        def configure_model(self) -> None:
            self.compute = Compute(gradient_checkpointing=True, checkpoint_every=every)
            super().configure_model()
            assert self.backbone is not None and self.backbone.model.is_gradient_checkpointing and self.backbone.model.training
            assert [layer.gradient_checkpointing for layer in self.backbone.decoder.layers] == [True, every == 1]  # type: ignore[union-attr]

    assert distance(fit(folder, TALR(), steps=2, module_class=Checkpointed), plain, start) < 1e-12


@pytest.mark.slow
def test_compiled_layers_compute_the_same(folder: Path, tmp_path: Path) -> None:
    start = fit(folder, Standard(), steps=1, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    plain = fit(folder, TALR(), steps=3)

    class Compiled(DomainSFT):
        def configure_model(self) -> None:
            self.compute = Compute(compile_layers=True)
            super().configure_model()
            assert self.backbone is not None and all(layer._compiled_call_impl for layer in self.backbone.decoder.layers)  # type: ignore[union-attr]

    assert distance(fit(folder, TALR(), steps=3, module_class=Compiled), plain, start) < 1e-7  # norms and rotations are float32 inside


def test_bf16_mixed_keeps_fp32_weights_that_move_at_a_small_rate(folder: Path) -> None:
    options: dict[str, Any] = {"trainer": {"precision": "bf16-mixed"}}
    start = fit(folder, Standard(), steps=1, optimizer=partial(torch.optim.AdamW, lr=0.0), **options)
    end = fit(folder, Standard(), steps=5, optimizer=partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.0), **options)
    assert {weight.dtype for weight in end.values()} == {torch.float32}
    layer = "model.layers.0.mlp.up_proj.weight"
    assert (end[layer] != start[layer]).float().mean() > 0.99


@pytest.mark.parametrize(("max_epochs", "max_steps", "expected"), [(2, -1, 6), (2, 4, 4), (1, 100, 3), (-1, 7, 7)])
def test_the_schedules_length_comes_from_the_plan(folder: Path, max_epochs: int, max_steps: int, expected: int) -> None:
    class Counted(DomainSFT):
        def on_train_start(self) -> None:
            counted.append(self.num_steps)
            self.trainer.should_stop = True

    counted: list[int] = []
    fit(folder, Standard(), module_class=Counted, steps=max_steps, trainer={"max_epochs": max_epochs})
    assert counted == [expected]


@pytest.mark.parametrize("precision", first_is_fast("bf16-mixed", "32-true", None))
@pytest.mark.parametrize("loss", first_is_fast(Standard, lambda: L2(Standard(), coefficient=0.1)), ids=["standard", "l2"])
def test_a_fused_optimizer_clips_and_pulls_as_any_other(folder: Path, precision: str | None, loss: Callable[[], LossStrategy]) -> None:
    """Lightning refuses to clip for one, and a hook before its step would see gradients times the loss scale, which ``16-mixed`` has (here ``None``)."""
    results = []
    for choice in (False, True):
        plugins = [] if precision else [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
        own: Any = {"precision": precision, "plugins": plugins, "gradient_clip_val": 0.1}
        results.append(fit(folder, loss(), optimizer=partial(torch.optim.AdamW, lr=0.01, fused=choice), trainer=own))
    plain, fused = results
    for name, weight in plain.items():
        torch.testing.assert_close(fused[name], weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "`GradientAccumulationScheduler` is not supported"),
        ({"overfit_batches": 2}, "`trainer.overfit_batches` is not supported"),
        ({"precision": "bf16-true"}, "use `bf16-mixed` .fp32 weights., or insist with `model.bf16_weights: true`"),
    ],
)
def test_a_trainer_that_breaks_the_accounting_is_refused(options: dict[str, Any], message: str) -> None:
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False, **options)
    with pytest.raises(ValueError, match=message):
        check_trainer(trainer, bf16_weights=False)


@pytest.mark.parametrize(
    ("strategy", "adapter", "message"),
    [
        (FSDPStrategy(), False, "`trainer.strategy` FSDPStrategy is not supported; use one of configs/strategy"),
        (DeepSpeedStrategy(stage=0), False, "DeepSpeed is supported with ZeRO stage 1, 2 or 3"),
        (FSDP2Strategy(), True, "`model.adapter` is not supported where every weight is sharded"),
    ],
)
def test_an_unsupported_strategy_is_refused_by_name(strategy: Strategy, adapter: bool, message: str) -> None:
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False)
    trainer._accelerator_connector.strategy = strategy
    with pytest.raises(ValueError, match=message):
        check_strategy(trainer, adapter)


def test_bf16_weights_can_be_insisted_on() -> None:
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, precision="bf16-true", logger=False, enable_progress_bar=False)
    check_trainer(trainer, bf16_weights=True)


def test_an_optimizer_that_evaluates_a_step_again_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="LBFGS is not supported"):
        fit(folder, Standard(), steps=1, optimizer=torch.optim.LBFGS)


def test_statistics_that_are_not_computed_are_refused_by_name(folder: Path) -> None:
    class Needy(Standard):
        needs = frozenset({"entropy", "gradient_norm"})

    with pytest.raises(ValueError, match="Needy needs gradient_norm, which is not computed; there are base_kl, base_nll, entropy, masked_kl, top_entropy"):
        fit(folder, Needy(), steps=1)


def test_every_second_layer_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="`model.compute.checkpoint_every` says which layers `model.compute.gradient_checkpointing` recomputes; set that too"):
        Compute(checkpoint_every=2)


def test_a_micro_batch_without_examples_is_spared_but_at_the_end_of_a_step(folder: Path) -> None:
    """The weights are those of steps that are one micro-batch: tests/training/test_step_gradient.py."""
    dealt: list[tuple[bool, int]] = []
    forwards: list[int] = []

    class Counted(DomainSFT):
        def on_train_start(self) -> None:
            assert self.backbone is not None
            self.backbone.register_forward_pre_hook(lambda module, tokens: forwards.append(len(tokens[0])))

        def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            dealt.append((bool(batch["ids"]), batch_idx))

    fit(folder, TALR(), module_class=Counted, batching={"micro_batch_tokens": 300, "packing": True})
    assert 0 < len(forwards) == sum(used for used, _ in dealt) < len(dealt)


def test_compiled_layers_beside_ligers_are_refused() -> None:
    with pytest.raises(ValueError, match="`model.compute.compile_layers` and `model.compute.liger_layers` exclude each other; leave one out"):
        Compute(compile_layers=True, liger_layers=True)


def test_a_tokenizer_larger_than_the_models_head_is_refused(folder: Path) -> None:
    module = DomainSFT(Standard(), partial(torch.optim.SGD, lr=0.1), Constant(), architecture={**QWEN3, "vocab_size": 200})
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="The tokenizer has 259 tokens, the model's head 200"):
        trainer.fit(module, datamodule=records(folder))
