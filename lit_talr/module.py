"""The LightningModule: backbone, loss strategy and optimizer, with exact accounting of tokens."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lit_talr.backbone import Backbone, load_model
from lit_talr.data.base import Batch, DomainDataModule
from lit_talr.data.batch_plan import BatchPlan, MicroBatch
from lit_talr.generation import Answer, Generation, generate
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.losses.base import LossStrategy, TokenStats, sum_over_ranks
from lit_talr.schedules import Schedule


class DomainSFT(LightningModule):
    """Fine-tunes a causal language model on a domain; ``loss`` chooses the remedy.

    The loss of an optimizer step is the sum over its supervised tokens of weight times NLL, divided by their number N over all micro-batches and
    ranks, whatever the step's layout.

    Args:
        loss: How tokens are weighed: ``Standard``, ``TALR``, ``L2``, ...
        optimizer: An optimizer class and its options; it is given all trained weights.
        schedule: The learning rate's course over all steps.
        pretrained: Model folder or hub name to start from.
        revision: Commit, tag or branch of a hub model.
        architecture: Instead of ``pretrained``: ``model_type`` and fields of a configuration, for a model with random weights.
        tokenizer: Folder or hub name of the tokenizer, where it is not that of ``pretrained``.
        attention: Attention implementation of transformers, such as ``sdpa``, ``eager`` or ``flash_attention_2``; its own choice by default.
        gradient_checkpointing: Recompute each layer in backward to save memory.
        generation: How ``test`` generates answers.
        bf16_weights: Allow ``bf16-true`` with a plain optimizer, although at small learning rates most bf16 weights then never move.

    Raises:
        ValueError: At start-up, for a combination that is not supported, by its name.
    """

    def __init__(
        self,
        loss: LossStrategy,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        pretrained: str | None = None,
        revision: str | None = None,
        architecture: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        attention: str | None = None,
        gradient_checkpointing: bool = False,
        generation: Generation = Generation(),
        bf16_weights: bool = False,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.pretrained = pretrained
        self.revision = revision
        self.architecture = architecture
        self.attention = attention
        self.gradient_checkpointing = gradient_checkpointing
        self.generation = generation
        self.bf16_weights = bf16_weights
        self.backbone: Backbone | None = None
        self.val_nll = MeanMetric().set_dtype(torch.float64)
        self.val_accuracy = MeanMetric().set_dtype(torch.float64)
        self._step_sums: Tensor | None = None  # of weight * nll / N and nll / N over this rank's micro-batches of the open step

    @property
    def data(self) -> DomainDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def plan(self) -> BatchPlan:
        assert self.data.train_plan is not None
        return self.data.train_plan

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run, from the plan."""
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        limits = [self.plan.steps_per_epoch * epochs] if epochs is not None and epochs >= 0 else []
        return min([*limits, steps] if steps >= 0 else limits)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            check_trainer(self.trainer, self.bf16_weights)
            self.loss.check(self.trainer)
        strategy = self.trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy) and isinstance(strategy.config, dict):
            strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)  # only for its log; Lightning would ask a batch sampler

    def configure_model(self) -> None:
        if self.backbone is not None:
            return
        tokenizer = self.data.encoder.tokenizer
        model = load_model(self.pretrained, self.revision, self.architecture, len(tokenizer), self.attention)
        self.backbone = Backbone(model)
        if self.backbone.head.weight.shape[0] < len(tokenizer):
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, the model's head {self.backbone.head.weight.shape[0]}; give the model's own tokenizer."
            )
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        self.loss.attach(optimizer)
        num_steps = self.num_steps
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def token_stats(self, batch: Batch) -> TokenStats:
        """What the loss strategy sees of a micro-batch."""
        assert self.backbone is not None
        output = self.backbone(batch["input_ids"], batch["attention_mask"], batch["labels"], entropy="entropy" in self.loss.needs)
        return TokenStats(output.nll, batch["labels"] != IGNORE_INDEX, batch["sequence"], output.entropy)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The loss to be differentiated and, for callbacks, the detached statistics of the tokens."""
        stats = self.token_stats(batch)
        loss = self.loss(stats) / batch["num_step_tokens"]
        sums = torch.stack([loss.detach(), stats.nll.detach().sum() / batch["num_step_tokens"]])
        self._step_sums = sums if self._step_sums is None else self._step_sums + sums
        return {"loss": loss * self.layout_factor(), "stats": stats.detach()}

    def layout_factor(self) -> int:
        """What undoes the averages over ranks and over micro-batches that the strategy and Lightning will take."""
        accumulate = self.trainer.accumulate_grad_batches
        if self.trainer.strategy.handles_gradient_accumulation:  # then the engine divides once more
            accumulate **= 2
        return accumulate * self.trainer.world_size

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random numbers (dropout) depend on the place in the run alone, so that a resumed run draws the same."""
        torch.manual_seed(hash((self.plan.seed, self.trainer.global_step, batch_idx, self.trainer.global_rank)) % 2**63)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:  # DeepSpeed comes here for every micro-batch
            self.step_end()

    def step_end(self) -> None:
        """After each optimizer step, before any checkpoint of it."""
        self.loss.step_end()
        assert self._step_sums is not None
        loss, nll = sum_over_ranks(self._step_sums)
        self._step_sums = None
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/nll", nll)
        for name, value in self.loss.metrics().items():
            self.log(name, value, prog_bar=name.endswith("temperature"))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self.backbone is not None
        output = self.backbone(batch["input_ids"], batch["attention_mask"], batch["labels"], correct=True)
        mask = batch["labels"] != IGNORE_INDEX
        assert output.correct is not None
        self.val_nll.update(output.nll.double(), mask)
        self.val_accuracy.update(output.correct.double(), mask)

    def on_validation_epoch_end(self) -> None:
        """Token means over all ranks."""
        nll, accuracy = self.val_nll.compute(), self.val_accuracy.compute()
        self.val_nll.reset()
        self.val_accuracy.reset()
        self.log("val/nll", nll)
        self.log("val/perplexity", nll.exp())
        self.log("val/token_accuracy", accuracy)

    def test_step(self, batch: MicroBatch, batch_idx: int) -> list[Answer]:  # type: ignore[override]
        return self.answer([self.data.prompts["test"][index] for index in batch.ids])

    def answer(self, prompts: list[list[int]]) -> list[Answer]:
        """Generate an answer for each prompt."""
        assert self.backbone is not None
        return generate(self.backbone.model, self.data.encoder.tokenizer, prompts, self.data.encoder.stop_token_ids, self.generation)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint's number of steps says; a checkpoint from inside a step goes back to its first micro-batch."""
        if not self.trainer.training:
            return
        epoch, step = divmod(checkpoint["global_step"], self.plan.steps_per_epoch)
        self.plan.resume(epoch, step)


def check_trainer(trainer: Any, bf16_weights: bool) -> None:
    """Refuse what would break the exact accounting, or the method.

    Raises:
        ValueError: Naming the option and the way out.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, DeepSpeedStrategy)):
        raise ValueError(f"`trainer.strategy` {type(strategy).__name__} is not supported; use one of configs/strategy.")
    if isinstance(strategy, DeepSpeedStrategy) and strategy.config and strategy.config.get("zero_optimization", {}).get("stage", 0) > 2:
        raise ValueError("ZeRO stage 3 is not supported yet; use configs/strategy/zero2.yaml.")
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise ValueError("`GradientAccumulationScheduler` is not supported: the micro-batches of a step follow from `data.batching`.")
    if trainer.overfit_batches:
        raise ValueError("`trainer.overfit_batches` is not supported, since it cuts optimizer steps; use fewer rows (`data.max_rows`) instead.")
    limit = trainer.limit_train_batches
    if limit != 1.0 and (isinstance(limit, float) or limit % trainer.accumulate_grad_batches):
        raise ValueError(
            f"`trainer.limit_train_batches` {limit} cuts an optimizer step of {trainer.accumulate_grad_batches} micro-batches; "
            "give a multiple of that, or use `trainer.max_steps`."
        )
    if trainer.precision == "bf16-true" and not isinstance(strategy, DeepSpeedStrategy) and not bf16_weights:
        raise ValueError(
            "`trainer.precision: bf16-true` keeps the weights in bf16, where at a learning rate of 1e-6 about one in fifty ever moves; "
            "use `bf16-mixed` (fp32 weights), or insist with `model.bf16_weights: true`."
        )
    if trainer.max_epochs is not None and trainer.max_epochs < 0 and trainer.max_steps < 0:
        raise ValueError("Give `trainer.max_epochs` or `trainer.max_steps`: the learning rate's schedule needs the end of the run.")
