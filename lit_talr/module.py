"""The LightningModule: backbone, loss strategy and optimizer, with exact accounting of tokens."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import LBFGS, Adam
from torch.optim.lr_scheduler import LambdaLR

from lit_talr.data.batch_plan import BatchPlan, MicroBatch
from lit_talr.data.encoded import Batch
from lit_talr.domains.base import DomainDataModule
from lit_talr.kernels.token_nll import IGNORE_INDEX, KEPT_BYTES
from lit_talr.lab.muon import Muon
from lit_talr.losses.base import LossStrategy, Setting, TokenStats
from lit_talr.modeling.backbone import Backbone, BackboneOutput, BaseLogits, HeadKernel, compile_layers, load_model, use_liger_layers
from lit_talr.modeling.generation import Generation, Response, generate
from lit_talr.modeling.lora import LoRA
from lit_talr.modeling.sharded import empty_model, exact_buffers, exact_masters, load_shards, shard, zero3_drawing
from lit_talr.modeling.strategies import FSDP2Strategy, is_zero3, shards_weights
from lit_talr.modeling.vllm_engine import VLLMEngine
from lit_talr.training.base_nll import BaseModel, BaseNLL, load_base_nll, weights_hash
from lit_talr.training.non_finite import Guard, NonFinite
from lit_talr.training.resume import check_same, set_progress
from lit_talr.training.schedules import Schedule
from lit_talr.training.supported import check_trainer
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.weight_files import model_folder

COMPUTED = frozenset({"entropy", "top_entropy", "base_nll", "base_kl"})
"""Optional fields of ``TokenStats`` that the module can fill in."""


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
        lora: Train low-rank adapters in place of the weights.
        attention: Attention implementation of transformers, such as ``sdpa``, ``eager`` or ``flash_attention_2``; its own choice by default.
        head_kernel: What computes the NLL and its gradient in training: ``own``, torch's ``linear_cross_entropy`` (``torch``, without half precision) or
            Liger's function (``liger``, on Hopper GPUs in bf16).
        kept_logits: Bytes of a micro-batch's logits (4 a supervised token and word of the vocabulary) up to which ``own`` keeps them for the gradient; larger
            ones are computed twice. A soft-cap forbids it.
        liger_layers: Use Liger's fused norms, MLPs and rotary positions, on GPUs.
        gradient_checkpointing: Recompute layers in backward to save memory.
        checkpoint_every: Of which only every so many-th is recomputed, at least 1 (all of them).
        compile_layers: Compile each layer of the decoder (``torch.compile``), once for all lengths of rows.
        generation: How ``test`` generates answers.
        non_finite: What happens at an optimizer step whose loss is not finite.
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
        lora: LoRA | None = None,
        attention: str | None = None,
        head_kernel: HeadKernel = "own",
        kept_logits: int = KEPT_BYTES,
        liger_layers: bool = False,
        gradient_checkpointing: bool = False,
        checkpoint_every: int = 1,
        compile_layers: bool = False,
        generation: Generation = Generation(),
        non_finite: NonFinite = NonFinite(),
        bf16_weights: bool = False,
    ) -> None:
        super().__init__()
        if checkpoint_every < 1:
            raise ValueError(f"`model.checkpoint_every` must be at least 1 (recompute every layer), got {checkpoint_every}.")
        if checkpoint_every > 1 and not gradient_checkpointing:
            raise ValueError("`model.checkpoint_every` says which layers `model.gradient_checkpointing` recomputes; set that too, or leave it out.")
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.pretrained = pretrained
        self.revision = revision
        self.architecture = architecture
        self.lora = lora
        self.attention = attention
        self.head_kernel: HeadKernel = head_kernel
        self.kept_logits = kept_logits
        self.liger_layers = liger_layers
        self.gradient_checkpointing = gradient_checkpointing
        self.checkpoint_every = checkpoint_every
        self.compile_layers = compile_layers
        self.generation = generation
        self.guard = Guard(non_finite)
        self.bf16_weights = bf16_weights
        self.backbone: Backbone | None = None
        self.base_nll: BaseNLL | None = None
        self.start: tuple[Backbone, ...] = ()  # the starting model where it runs beside; in a tuple it is no part of this module, which would train and keep it
        self.frozen_weights: str | None = None  # hash of what LoRA's adapters are beside, or the starting model that runs beside
        self._optimizer_name = ""
        self._loaded_optimizer: str | None = None  # the class of the optimizer whose state is about to be loaded
        self.vllm: VLLMEngine | None = None  # once something was asked of it
        self.loaded_step: int | None = None  # optimizer steps of the checkpoint that was loaded
        self._val_sums: Tensor | None = None  # float64: this rank's sum of NLL, number of correct tokens, number of tokens

    @property
    def data(self) -> DomainDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def plan(self) -> BatchPlan:
        assert self.data.train_plan is not None
        return self.data.train_plan

    @property
    def mixed_dtype(self) -> torch.dtype | None:
        """What mixed precision multiplies in."""
        return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(self.trainer.precision))

    @property
    def head_dtype(self) -> torch.dtype:
        """What the head takes its operands as, where it is not float64."""
        return torch.bfloat16 if self.trainer.precision == "bf16-true" else self.mixed_dtype or torch.float32

    @property
    def loss_name(self) -> str:
        """The strategies from the outermost in with their options, such as ``L2(coefficient=0.001) around Standard()``."""
        return " around ".join(f"{type(part).__name__}({part.extra_repr()})" for part in self.loss.modules())

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run, from the plan."""
        epochs, steps = self.trainer.max_epochs, self.trainer.max_steps
        limits = [self.plan.steps_per_epoch * epochs] if epochs is not None and epochs >= 0 else []
        return min([*limits, steps] if steps >= 0 else limits)

    def check(self, trainer: Any) -> None:
        """Refuse what is not supported, before any data is read or weight loaded.

        Raises:
            ValueError: Naming it and the way out.
        """
        check_trainer(trainer, self.bf16_weights, self.lora is not None)
        sharded = isinstance(trainer.strategy, (DeepSpeedStrategy, FSDP2Strategy))
        setting = Setting(self.pretrained is not None, self.lora is not None, sharded, str(trainer.precision), shards_weights(trainer.strategy))
        self.loss.check(setting)
        if self.compile_layers and self.liger_layers:
            raise ValueError("`model.compile_layers` and `model.liger_layers` are two ways to the same end; leave one out.")
        if self.compile_layers and shards_weights(trainer.strategy):
            raise ValueError("`model.compile_layers` is not supported where every weight is sharded (ZeRO-3, FSDP2); leave it out.")
        if missing := self.loss.needs - COMPUTED:
            raise ValueError(f"{type(self.loss).__name__} needs {', '.join(sorted(missing))}, which is not computed; there are {', '.join(sorted(COMPUTED))}.")
        if self.lora is not None and self.pretrained is None:
            raise ValueError("`model.lora` adapts weights that stay as they are, and random ones are of no use; give `model.pretrained`, or leave it out.")

    def check_generation(self, trainer: Trainer, settings: Generation | None = None) -> None:
        """Refuse to generate where weights are sharded: ranks that have answered would have to go on for those that have not; by vLLM where the weights are not
        those of a folder; and by transformers beside vLLM, which takes the device's memory.

        Raises:
            ValueError: With the way out.
        """
        if trainer.state.fn == "test" and (settings or self.generation).engine != self.generation.engine:
            raise ValueError(
                f"`generation.engine: {self.generation.engine}` answers the domain, and another engine is asked for general abilities; there is room for one: "
                "give both the same, or test twice."
            )
        of_folder = self.pretrained is not None and not trainer.ckpt_path and trainer.world_size == 1 and trainer.state.fn != "fit"
        if (settings or self.generation).engine == "vllm" and not of_folder:
            raise ValueError(
                "`generation.engine: vllm` reads a model folder in one process; train with `transformers`, then `lit-talr test` the export with "
                "`--model.pretrained RUN/export`, without `--ckpt_path`."
            )
        if shards_weights(trainer.strategy):
            raise ValueError(
                "Answers are not generated where every weight is sharded (ZeRO-3, FSDP2); test the export, `--model.pretrained RUN/export`, in one "
                "process or under DDP or ZeRO-2."
            )

    def setup(self, stage: str) -> None:
        if stage == "test":
            self.check_generation(self.trainer)
        if stage == "fit":
            self.check(self.trainer)
            if "base_nll" in self.loss.needs:
                encoded = self.data.encoded["train"]
                self.base_nll = load_base_nll(self.trainer, encoded, self.data.batching, self.base_model())
                self.loss.prepare(self.base_nll.nll.numpy(), encoded.num_supervised)
            if "base_kl" in self.loss.needs and self.lora is None:
                self.start = (self.base_model().load(self.trainer).requires_grad_(False),)
            if self.lora is not None or "base_kl" in self.loss.needs:
                assert self.pretrained is not None
                self.frozen_weights = weights_hash(self.trainer, self.pretrained, self.revision)
        strategy = self.trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy) and isinstance(strategy.config, dict):
            strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)  # only for its log; Lightning would ask a batch sampler

    def base_model(self) -> BaseModel:
        """Not loaded yet, in the dtype that training has it in."""
        assert self.pretrained is not None
        cast = self.mixed_dtype if self.lora or isinstance(self.trainer.strategy, (DeepSpeedStrategy, FSDP2Strategy)) else None
        return BaseModel(self.pretrained, self.revision, self.attention, cast)

    def configure_model(self) -> None:
        if self.backbone is not None:
            return
        strategy, vocab_size = self.trainer.strategy, len(self.data.encoder.tokenizer)
        mesh = strategy.device_mesh["data_parallel"] if isinstance(strategy, FSDP2Strategy) else None
        folder = model_folder(self.pretrained, self.revision) if shards_weights(strategy) and self.pretrained else None
        if folder is not None:
            model = empty_model(folder, self.attention, None, is_zero3(strategy))
        else:
            frozen = self.mixed_dtype if self.lora is not None else None  # what is not trained needs no more than the forward reads
            with zero3_drawing(strategy):
                model = load_model(self.pretrained, self.revision, self.architecture, vocab_size, self.attention, frozen)
        if self.liger_layers:
            use_liger_layers(model)
        if is_zero3(strategy):
            exact_buffers(model)
        backbone = Backbone(model, self.lora, self.head_kernel, self.kept_logits)
        if backbone.head.out_features < vocab_size:
            raise ValueError(f"The tokenizer has {vocab_size} tokens, the model's head {backbone.head.out_features}; give the model's own tokenizer.")
        if self.head_kernel != "own" and self.trainer.state.fn == "fit":
            backbone.head.try_kernel(strategy.root_device, self.head_dtype, "entropy" in self.loss.needs, "top_entropy" in self.loss.needs)
        if self.data.batching.packing:
            backbone.check_packing()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            for index, layer in enumerate(backbone.decoder.layers):  # type: ignore[arg-type]
                layer.gradient_checkpointing = index % self.checkpoint_every == 0
        if self.compile_layers and self.trainer.state.fn == "fit":
            compile_layers(backbone.decoder)
        if mesh is not None:
            shard(backbone, backbone.decoder.layers, mesh, self.mixed_dtype)  # type: ignore[arg-type]
        if folder is not None:
            load_shards(model, folder, strategy.root_device)
        self.backbone = backbone

    def on_train_start(self) -> None:
        if isinstance(self.trainer.strategy, DeepSpeedStrategy) and self.mixed_dtype and self.pretrained and self.loaded_step is None:
            assert self.backbone is not None
            exact_masters(self.backbone.model, model_folder(self.pretrained, self.revision))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        self._optimizer_name = type(optimizer).__name__
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # of a fused one: gradients are unscaled before hooks and clipping
        if isinstance(optimizer, LBFGS):
            raise ValueError("LBFGS is not supported: it evaluates a step several times, of which only the last micro-batch would be seen; use AdamW.")
        if optimizer.defaults.get("fused") and not isinstance(optimizer, Adam) and isinstance(self.trainer.strategy, FSDP2Strategy):
            raise ValueError(
                f"A fused {self._optimizer_name} is not supported under FSDP2, since torch has none for split weights; set `model.optimizer.fused: false`, "
                "or use AdamW."
            )
        if isinstance(optimizer, Muon) and isinstance(self.trainer.strategy, (DeepSpeedStrategy, FSDP2Strategy)):
            raise ValueError("Muon is not supported where the optimizer is split among ranks: it makes whole matrices orthogonal; use DDP, or AdamW.")
        check_same("model.optimizer", self._loaded_optimizer or self._optimizer_name, self._optimizer_name)
        self.guard.attach(optimizer, self.trainer, self.data)
        self.loss.attach(optimizer)
        num_steps = self.num_steps
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def forward(self, batch: Batch, correct: bool = False, entropy: bool = False, top_entropy: bool = False, base: BaseLogits | None = None) -> BackboneOutput:
        assert self.backbone is not None
        tokens = batch["input_ids"], batch["labels"], batch["packing"], batch["supervised"]
        return self.backbone(*tokens, correct=correct, entropy=entropy, top_entropy=top_entropy, base=base)

    def token_stats(self, batch: Batch) -> TokenStats:
        """What the loss strategy sees of a training micro-batch."""
        needs, mask = self.loss.needs, batch["labels"] != IGNORE_INDEX
        start = (self.start or (self.backbone,))[0]  # without adapters, the model that they are in
        beside = start.base_logits(batch["input_ids"], batch["packing"]) if "base_kl" in needs and start is not None else None
        output = self(batch, entropy="entropy" in needs, top_entropy="top_entropy" in needs, base=beside)
        reference = self.base_nll.of(batch, output.nll.detach(), mask) if self.base_nll is not None else None
        return TokenStats(output.nll, mask, batch["sequence_ids"], output.entropy, output.top_entropy, reference, output.base_kl)

    def idles(self, batch: Batch, batch_idx: int) -> bool:
        """Whether a forward is spared: of no examples, inside a step, and where no engine waits for every weight's gradient."""
        strategy = self.trainer.strategy
        engine = isinstance(strategy, (DeepSpeedStrategy, FSDP2Strategy)) or getattr(strategy, "_ddp_kwargs", {}).get("static_graph", False)
        return not batch["ids"] and (batch_idx + 1) % self.trainer.accumulate_grad_batches != 0 and not engine

    def idle_stats(self, batch: Batch) -> TokenStats:
        """Of no supervised token, with a gradient of zero."""
        weight = min((weight for weight in self.parameters() if weight.requires_grad), key=Tensor.numel)
        nll = torch.zeros(batch["labels"].shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device) + weight.sum() * 0
        optional = [nll.detach() if name in self.loss.needs else None for name in ("entropy", "top_entropy", "base_nll", "base_kl")]
        return TokenStats(nll, torch.zeros_like(nll, dtype=torch.bool), batch["sequence_ids"], *optional)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The loss to be differentiated and, for callbacks, the statistics of the tokens and their weights, both detached."""
        stats = self.idle_stats(batch) if self.idles(batch, batch_idx) else self.token_stats(batch)
        weights = torch.where(stats.mask, self.loss.weights(stats).detach(), 0)
        loss = self.loss(stats, weights) / batch["num_items_in_batch"]
        sums = torch.stack([loss.detach(), stats.nll.detach().sum() / batch["num_items_in_batch"]])
        self.guard.see(batch["ids"], batch["packing"] is not None, stats, sums)
        return {"loss": loss * self.layout_factor(), "stats": stats.detach(), "weights": weights}

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
            self.step_end(optimizer.param_groups[0]["lr"])
            if self.trainer.global_step + 1 == self.trainer.max_steps:
                self.trainer.should_stop = True  # so that Lightning validates where the run ends, also inside an epoch

    def step_end(self, learning_rate: float) -> None:
        """After each optimizer step, before any checkpoint of it."""
        loss, nll = self.guard.step_end(self.trainer, self.data)
        self.loss.step_end()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/nll", nll)
        self.log("train/learning_rate", learning_rate)
        if self.guard.num_skipped:
            self.log("train/skipped_steps", float(self.guard.num_skipped))
        for name, value in self.loss.metrics().items():
            self.log(name, value, prog_bar=name.endswith("temperature"))

    def on_validation_epoch_start(self) -> None:
        self._val_sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._val_sums is not None
        if not batch["ids"] and not shards_weights(self.trainer.strategy):
            return
        output = self(batch, correct=True)
        assert output.correct is not None
        parts = output.nll, output.correct, batch["labels"] != IGNORE_INDEX
        self._val_sums = self._val_sums + torch.stack([part.sum(dtype=torch.float64) for part in parts])

    def on_validation_epoch_end(self) -> None:
        """Token means over all ranks."""
        assert self._val_sums is not None
        nll, correct, number = sum_over_ranks(self._val_sums)
        self.log("val/nll", nll / number)
        self.log("val/perplexity", (nll / number).exp())
        self.log("val/token_accuracy", correct / number)

    def test_step(self, batch: MicroBatch, batch_idx: int) -> list[Response]:  # type: ignore[override]
        return self.respond([self.data.prompts["test"][index] for index in batch.ids])

    def respond(self, prompts: list[list[int]], settings: Generation | None = None) -> list[Response]:
        """Generate an answer for each prompt, by the module's settings unless others are given."""
        assert self.backbone is not None
        settings, tokenizer, stops = settings or self.generation, self.data.encoder.tokenizer, self.data.encoder.stop_token_ids
        if settings.engine == "transformers":
            return generate(self.backbone.model, tokenizer, prompts, stops, settings)
        if self.vllm is None:
            assert self.pretrained is not None
            self.backbone.cpu()  # vLLM has the weights once more, and wants the memory
            torch.cuda.empty_cache()
            self.vllm = VLLMEngine(self.pretrained, self.revision, str(self.trainer.precision))
        return self.vllm.generate(tokenizer, prompts, stops, settings)

    def origin(self) -> dict[str, Any]:
        """What a resumed run must share with the run that it continues, beside the optimizer's class."""
        reference = {} if self.base_nll is None else {"reference (hash of starting weights, rows and precision)": self.base_nll.key[:16]}
        frozen = {} if self.frozen_weights is None else {"model.pretrained (hash of its weights)": self.frozen_weights[:16]}
        return {
            "model.loss": self.loss_name,
            **reference,
            **frozen,
            "model.lora": str(self.lora),
            "data.batching.batch_size": self.data.batching.batch_size,
            "data.batching.seed": self.plan.seed,
            "number of training rows": len(self.plan.lengths),
            "data.share": None if self.plan.mixture is None else self.plan.mixture.share,
            "number of supervised tokens": int(self.plan.num_supervised.sum()),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["origin"] = {**self.origin(), "model.optimizer": self._optimizer_name}
        checkpoint["num_skipped_steps"] = self.guard.num_skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint's number of steps says.

        Raises:
            ValueError: If the checkpoint is of another model, or of a run with another loss, optimizer, step size or data.
        """
        check_same("model.lora", checkpoint["origin"].get("model.lora"), str(self.lora))
        own = {name: value.shape for name, value in self.state_dict().items() if isinstance(value, Tensor)}
        for name, value in checkpoint.get("state_dict", {}).items():  # DeepSpeed keeps it elsewhere
            if isinstance(value, Tensor) and own.get(name) != value.shape:
                raise ValueError(
                    f"The checkpoint is of another model: its `{name}` is {list(value.shape)}, here {list(own.get(name, []))}; "
                    "give the model it was trained with."
                )
        self.loaded_step = checkpoint["global_step"]
        if not self.trainer.training:
            return
        for name, here in self.origin().items():
            check_same(name, checkpoint["origin"].get(name), here)
        self._loaded_optimizer = checkpoint["origin"]["model.optimizer"]
        check_same("model.optimizer", self._loaded_optimizer, self._optimizer_name or self._loaded_optimizer)  # there already under DeepSpeed
        self.guard.num_skipped = checkpoint.get("num_skipped_steps", 0)  # of an older version: it skipped none
        self.plan.resume(*divmod(self.loaded_step, self.plan.steps_per_epoch))
        if self.loaded_step:
            set_progress(checkpoint["loops"]["fit_loop"], self.loaded_step, self.plan.steps_per_epoch, self.plan.accumulate)
