"""The LightningModule: what happens in one optimizer step, from top to bottom."""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import AdamW

from lit_talr.checkpoint.before_loading import check_before_loading
from lit_talr.data.encoded import Batch, data_weights
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.losses.base import RUNNING_BASE, LossStrategy, TokenStats, token_weights
from lit_talr.modeling.adapters import Adapter
from lit_talr.modeling.arithmetic import Arithmetic
from lit_talr.modeling.backbone import BackboneOutput
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.head import BaseLogits
from lit_talr.modeling.strategies import layout_factor, set_engine_defaults
from lit_talr.training.base_model import BaseModel, base_dtype
from lit_talr.training.base_numbers import BaseNumbers, prepare_base
from lit_talr.training.building import Compute, Source, build_backbone, restore_masters, say_positions, tell_parts, try_head_kernel
from lit_talr.training.empty import can_skip, empty_stats
from lit_talr.training.evaluation import EvaluatedModule
from lit_talr.training.monitors import adopt_monitors
from lit_talr.training.non_finite import Guard, NonFinite
from lit_talr.training.rates import attach_schedule, say_high_rate
from lit_talr.training.resume import check_model
from lit_talr.training.run_record import RunRecord, ignore_loss_state, trained_weights
from lit_talr.training.schedules import Cosine, Schedule
from lit_talr.training.supported import check_optimizer, check_run
from lit_talr.utils.identity import WeightsIdentity


class DomainSFT(EvaluatedModule):
    """Fine-tunes a causal language model on a domain; ``loss`` chooses the remedy.

    One optimizer step, over several micro-batches and ranks:

    1. ``on_train_batch_start`` seeds torch by ``data.batching.seed``, step, micro-batch and rank, so that a resumed run draws the same dropout.
    2. ``token_stats`` runs the model and returns the NLL of every supervised token; a micro-batch without examples gets ``empty_stats``.
    3. ``loss.weights`` turns these statistics into weights ``[B, T]`` without gradient; weights of the data multiply them.
    4. ``training_step`` computes ``sum(weight * NLL) / N``. The batch plan knows N, the supervised tokens of the whole step, without communication.
    5. It returns that times ``layout_factor``, which undoes the averages over micro-batches and ranks. Lightning runs backward and adds up gradients.
    6. After the last micro-batch, Lightning clips the gradient's norm.
    7. The guard, an optimizer hook in which 2 to 6 of the last micro-batch ran, sums the loss over ranks; it stops, or skips the step, if it is not finite.
    8. Hooks set the rate, where the schedule follows the loss, and add the gradient of penalties to the weights whose optimizer state is on this rank.
    9. The optimizer changes the weights.
    10. ``step_end`` logs, and lets the loss finish its step (its collectives run there); then the schedule steps.

    Args:
        loss: How tokens are weighted: ``Standard``, ``TALR``, ``L2``, ...
        optimizer: Makes the optimizer from the trained weights; by default AdamW at 1e-6 without weight decay.
        schedule: How the learning rate changes over all steps; by default a cosine after a warm-up over 3 % of the steps.
        pretrained: Model folder or hub name of the base model.
        revision: Commit, tag or branch of a hub model.
        architecture: In place of ``pretrained``: ``model_type`` and fields of a configuration, for random weights.
        tokenizer: Folder or hub name of the tokenizer, unless ``pretrained`` has it.
        adapter: Train an adapter in place of the weights: ``LoRA``, ``OFT``, ...
        compute: How the model is computed: attention, head, recomputation, compilation.
        arithmetic: What all scores of the run are computed in: as the forward pass of ``training``, in ``fp32``, or in ``bf16`` with weights rounded to it.
        generation: How ``test`` generates responses.
        non_finite: Whether a step whose loss or gradient is not finite stops the run or is skipped.
        bf16_weights: Allow ``bf16-true`` with a plain optimizer, although at small learning rates most bf16 weights then never move.

    Raises:
        ValueError: At start-up, naming a combination that is not supported.
    """

    def __init__(
        self,
        loss: LossStrategy,
        optimizer: OptimizerCallable | None = None,
        schedule: Schedule | None = None,
        pretrained: str | None = None,
        revision: str | None = None,
        architecture: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        adapter: Adapter | None = None,
        compute: Compute = Compute(),
        arithmetic: Arithmetic = "training",
        generation: Generation = Generation(),
        non_finite: NonFinite = NonFinite(),
        bf16_weights: bool = False,
    ) -> None:
        super().__init__()
        self.loss, self.schedule = loss, schedule or Cosine(warmup_ratio=0.03)
        self.optimizer = optimizer or partial(AdamW, lr=1e-6, weight_decay=0.0, fused=True)
        self.pretrained, self.revision, self.architecture, self.tokenizer = pretrained, revision, architecture, tokenizer
        self.source = Source(pretrained, revision, architecture)
        self.adapter, self.compute, self.arithmetic, self.generation, self.bf16_weights = adapter, compute, arithmetic, generation, bf16_weights
        self.backbone, self.base, self.guard, self.record = None, BaseNumbers(), Guard(non_finite), RunRecord()
        self.loaded_step: int | None = None  # optimizer steps of the loaded checkpoint
        self.register_load_state_dict_post_hook(ignore_loss_state)

    def check(self, trainer: Trainer) -> None:
        """Refuses combinations that are not supported, before weights are loaded."""
        check_run(trainer, self.loss, self.pretrained is not None, self.adapter is not None, self.compute.compile_layers, self.bf16_weights)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.check(self.trainer)
            adopt_monitors(self.trainer)
            base = self.base_model() if self.pretrained and not self.source.architecture else None  # both are refused later
            self.base = prepare_base(self.trainer, self.data, self.loss, base, self.adapter is not None)
        set_engine_defaults(self.trainer.strategy)
        check_before_loading(self.trainer.strategy)

    def base_model(self) -> BaseModel:
        """The base model, not loaded yet, in the dtype that training uses."""
        assert self.pretrained is not None
        return BaseModel(self.pretrained, self.revision, self.compute.attention, base_dtype(self.trainer, self.adapter is not None))

    def configure_model(self) -> None:
        if self.backbone is None:
            vocab_size = len(self.data.encoder.tokenizer)
            options = self.source, self.compute, self.adapter, vocab_size, self.data.batching
            self.backbone = build_backbone(self.trainer, *options, exact=self.arithmetic == "fp32")
            say_positions(self.backbone, self.data, self.generation.max_new_tokens)
            if self.trainer.state.fn == "fit":
                try_head_kernel(self.trainer, self.backbone, self.loss.needs)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(trained_weights(self))
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # gradients are unscaled before hooks and clipping
        check_optimizer(optimizer, self.trainer)
        tell_parts(optimizer, self.trainer, self, self.loss, self.base.fishers)
        say_high_rate(optimizer)
        self.record.describe(self, optimizer)
        self.guard.attach(optimizer, self.trainer, self.data)  # before the penalties, which then see no gradient in a skipped step
        self.loss.attach(optimizer)
        scheduler = attach_schedule(optimizer, self.schedule, self.guard, self.trainer, self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        if self.loaded_step is not None:
            self.record.restore(self)
        elif self.backbone is not None:
            restore_masters(self.trainer, self.backbone, self.source)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self.plan.seed, self.trainer.global_step, batch_idx, self.trainer.global_rank)) % 2**63)

    def forward(self, batch: Batch, also: Collection[str] = (), base: BaseLogits | None = None) -> BackboneOutput:
        if self.backbone is None:
            raise ValueError("The model is built when a trainer starts: call `Trainer.fit`, `validate` or `test` first, or load its export with transformers.")
        tokens = batch["input_ids"], batch["labels"], batch["packing"], batch["supervised"]
        return self.backbone(*tokens, base=base, **dict.fromkeys(also, True))

    def token_stats(self, batch: Batch, numbers: BaseNumbers | None = None) -> TokenStats:
        """The numbers of a micro-batch's tokens that the loss turns into weights; rows that are not training rows have base ``numbers`` of their own."""
        needs, mask, numbers = self.loss.needs, batch["labels"] != IGNORE_INDEX, numbers or self.base
        base = numbers.logits(batch, self.backbone) if needs & RUNNING_BASE else None
        output = self(batch, needs - {"base_nll"}, base)
        base_nll = numbers.nll.of_batch(batch, output.nll.detach(), mask) if numbers.nll is not None else None
        optional = output.entropy, output.top_entropy, base_nll, output.base_kl, output.masked_kl, data_weights(batch, output.nll)
        return TokenStats(output.nll, mask, batch["sequence_ids"], *optional)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Returns the loss, times ``layout_factor``, and for callbacks the tokens' statistics and weights, detached."""
        skipped = can_skip(batch, batch_idx, self.trainer)
        stats = empty_stats(batch, self, self.loss.needs) if skipped else self.token_stats(batch)
        weights = token_weights(self.loss, stats)
        self.loss.observe(stats, weights)
        loss = self.loss(stats, weights) / batch["num_items_in_batch"]
        sums = torch.stack([loss.detach(), stats.nll.detach().sum() / batch["num_items_in_batch"]])
        self.guard.see(batch["ids"], batch["packing"] is not None, stats, sums)
        return {"loss": loss * layout_factor(self.trainer), "stats": stats.detach(), "weights": weights}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:  # DeepSpeed calls this for every micro-batch
            if self.trainer.global_step + 1 == self.num_steps:
                self.trainer.should_stop = True  # so that Lightning validates where the run ends, whatever the interval
            self.step_end(optimizer.param_groups[0]["lr"])

    def step_end(self, learning_rate: float) -> None:
        """Ends an optimizer step, before a checkpoint of it is saved."""
        loss, nll = self.guard.step_end(self.trainer, self.data)
        self.loss.step_end()
        values = {"train/loss": loss, "train/nll": nll, "train/learning_rate": learning_rate, "epoch": self.trainer.current_epoch + 1.0}
        skipped = {"train/skipped_steps": float(self.guard.num_skipped)} if self.guard.num_skipped else {}
        self.log_step({**values, **skipped, **self.loss.metrics()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.record.save(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues after the checkpoint's last step; refuses one of another model or run."""
        check_model(checkpoint, self, self.trainer)
        self.loaded_step = checkpoint["global_step"]
        self.source_weights = WeightsIdentity(**checkpoint["weights"])
        if self.trainer.training:
            self.record.load(checkpoint, self)
