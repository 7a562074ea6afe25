"""Combinations that are supported; everything else is refused by name before weights are loaded (by the command line also before data is read)."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from torch.optim import LBFGS, Adam, Optimizer

from lit_talr.lab.muon import Muon
from lit_talr.losses.base import LossStrategy, Setting, check_loss
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy, is_deepspeed, is_zero3, shards_weights, splits_optimizer
from lit_talr.training.parts import PartsOptimizer
from lit_talr.utils.errors import check_least

COMPUTED = frozenset({"entropy", "top_entropy", "base_nll", "base_kl", "masked_kl"})
"""Optional fields of ``TokenStats`` that the module can fill in."""
OFFLOADS = ("offload_optimizer", "cpu_offload")
"""DeepSpeed's options for the optimizer's state, today's and an old one."""
AVERAGES = "scores and checkpoints would be of weights that no step has; average a run's checkpoints with `lit-talr export --decay`"
REFUSED: dict[type[Callback], str] = {
    GradientAccumulationScheduler: "the micro-batches of a step follow from `data.batching`; set `data.batching.batch_size`",
    BatchSizeFinder: "the micro-batches of a step follow from `data.batching`; bound their memory with `data.batching.micro_batch_tokens`",
    LearningRateFinder: "a rate is judged here by what it learns and what it forgets; compare several with `lit-talr sweep`",
    StochasticWeightAveraging: AVERAGES,
    WeightAveraging: AVERAGES,
    BaseFinetuning: "the optimizer is made once, for all trained weights; train few of them with `model.adapter`",
    ModelPruning: "it changes weights outside of the optimizer's steps; prune the export of a run",
    SpikeDetection: "it leaves out micro-batches, and an optimizer step is accounted as a whole; `model.non_finite` says what becomes of a step that fails",
    OnExceptionCheckpoint: "it deletes its checkpoint as the run ends; `WholeCheckpoint` writes one where a callback fails",
    BasePredictionWriter: "nothing predicts here; `lit-talr test` writes every response to the run's `answers` folder",
}
"""Lightning's callbacks that cannot work here, with the reason and the way out."""


def check_run(trainer: Any, loss: LossStrategy, pretrained: bool, adapter: bool, compile_layers: bool, bf16_weights: bool) -> None:
    """Refuses a combination of trainer and module that is not supported.

    Args:
        trainer: With its strategy.
        loss: Its ``check`` is called too.
        pretrained: Whether training starts from a pretrained model.
        adapter: Whether adapters are trained.
        compile_layers: Whether layers are compiled.
        bf16_weights: Whether weights in bf16 are allowed.

    Raises:
        ValueError: Naming the option and the way out.
    """
    strategy = trainer.strategy
    check_loss(loss)
    check_strategy(trainer, adapter)
    check_trainer(trainer, bf16_weights)
    loss.check(Setting(pretrained, adapter, splits_optimizer(strategy), str(trainer.precision), shards_weights(strategy)))
    if compile_layers and shards_weights(strategy):
        raise ValueError("`model.compute.compile_layers` is not supported where every weight is sharded (ZeRO-3, FSDP2); leave it out.")
    if missing := loss.needs - COMPUTED:
        raise ValueError(f"{type(loss).__name__} needs {', '.join(sorted(missing))}, which is not computed; there are {', '.join(sorted(COMPUTED))}.")
    if adapter and not pretrained:
        raise ValueError("`model.adapter` adapts frozen weights, and random ones are of no use; give `model.pretrained`, or leave it out.")


def check_strategy(trainer: Any, adapter: bool = False) -> None:
    """Refuses strategies, and settings of theirs, that are not supported."""
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, DeepSpeedStrategy, FSDP2Strategy)):
        raise ValueError(f"`trainer.strategy` {type(strategy).__name__} is not supported; use one of configs/strategy.")
    if isinstance(strategy, DDPStrategy) and strategy._start_method != "popen":
        raise ValueError("`trainer.strategy: ddp_spawn` and its like are not supported; use `ddp`.")
    if is_deepspeed(strategy) and strategy.config and strategy.config.get("zero_optimization", {}).get("stage") not in (1, 2, 3):
        raise ValueError("DeepSpeed is supported with ZeRO stage 1, 2 or 3; use configs/strategy/zero2.yaml or its like.")
    if is_zero3(strategy) and ((strategy.config or {})["zero_optimization"].get("offload_param") or {}).get("device") == "nvme":
        raise ValueError("DeepSpeed's `offload_param` to nvme is not supported, since each rank loads its part of the model into memory; offload to cpu.")
    if is_deepspeed(strategy) and not isinstance(strategy, DeepSpeedCPUStrategy) and not isinstance(trainer.accelerator, CUDAAccelerator):
        stage = (strategy.config or {}).get("zero_optimization", {}).get("stage", 2)
        raise ValueError(f"DeepSpeed needs GPUs; on CPU ranks use configs/strategy/zero{stage}-cpu.yaml.")
    if adapter and shards_weights(strategy):
        raise ValueError("`model.adapter` is not supported where every weight is sharded (ZeRO-3, FSDP2); use configs/strategy/ddp.yaml or zero2.yaml.")


def check_trainer(trainer: Any, bf16_weights: bool) -> None:
    """Refuses options of the trainer that would break the exact accounting, or the method."""
    for callback in trainer.callbacks:
        if reason := next((reason for refused, reason in REFUSED.items() if isinstance(callback, refused)), None):
            raise ValueError(f"`{type(callback).__name__}` is not supported: {reason}.")
    if trainer.overfit_batches:
        raise ValueError("`trainer.overfit_batches` is not supported, since it cuts optimizer steps; use `trainer.max_steps` instead.")
    if not (isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches == 1.0):  # 1 is one micro-batch; fast_dev_run sets it
        raise ValueError(
            f"`trainer.limit_train_batches` {trainer.limit_train_batches} is not supported, since it cuts optimizer steps and epochs; use `trainer.max_steps`."
        )
    check_least("trainer.gradient_clip_val", trainer.gradient_clip_val, 0, "0 does not clip")
    if trainer.max_steps == 0 or trainer.max_epochs == 0:
        raise ValueError(f"`trainer.max_{'steps' if trainer.max_steps == 0 else 'epochs'}` 0 trains nothing; `lit-talr test` scores a model as it is.")
    if trainer.precision == "16-true":
        raise ValueError("`trainer.precision: 16-true` keeps the weights in fp16, in which AdamW's steps overflow; use `bf16-mixed`.")
    if trainer.precision == "bf16-true" and not is_deepspeed(trainer.strategy) and not bf16_weights:
        raise ValueError(
            "`trainer.precision: bf16-true` keeps the weights in bf16, where at a learning rate of 1e-6 about one in fifty ever moves; "
            "use `bf16-mixed` (fp32 weights), or insist with `model.bf16_weights: true`."
        )
    if trainer.max_epochs is not None and trainer.max_epochs < 0 and trainer.max_steps < 0:
        raise ValueError("Give `trainer.max_epochs` or `trainer.max_steps`: the learning rate's schedule needs the end of the run.")


def check_optimizer(optimizer: Optimizer, trainer: Trainer) -> None:
    """Refuses optimizers that cannot train exactly under the trainer's strategy.

    Raises:
        ValueError: With the way out.
    """
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS is not supported: it evaluates a step several times, of which only the last micro-batch would be seen; use AdamW.")
    if optimizer.defaults.get("fused") and not isinstance(optimizer, Adam) and isinstance(trainer.strategy, FSDP2Strategy):
        raise ValueError(
            f"A fused {type(optimizer).__name__} is not supported under FSDP2, since torch has none for split weights; set `model.optimizer.fused: false`, "
            "or use AdamW."
        )
    if isinstance(optimizer, PartsOptimizer) and is_deepspeed(trainer.strategy) and (offload := offloads(trainer.strategy)):
        name = type(optimizer).__name__
        raise ValueError(f"{name} is not supported with DeepSpeed's `{offload}`, which moves the optimizer to the CPU; leave it out, or use AdamW.")
    if isinstance(optimizer, Muon) and splits_optimizer(trainer.strategy):
        raise ValueError("Muon is not supported where the optimizer is split among ranks: it makes whole matrices orthogonal; use DDP, or AdamW.")


def offloads(strategy: DeepSpeedStrategy) -> str | None:
    """The option by which DeepSpeed keeps the optimizer's state on the CPU or on disk, if one does."""
    zero = (strategy.config or {}).get("zero_optimization", {})
    given = {name: (zero.get(name) or {}).get("device", "none") if isinstance(zero.get(name), dict) else zero.get(name) for name in OFFLOADS}
    return next((name for name, device in given.items() if device not in (None, False, "none")), None)


def check_generation(trainer: Trainer, own: Generation, asked: Generation, pretrained: str | None) -> None:
    """Refuses to generate where weights are sharded, and by vLLM where it cannot read the weights or has no memory.

    Args:
        trainer: With its strategy and the command that runs.
        own: The module's settings, by which test rows are answered.
        asked: Settings of these responses.
        pretrained: The folder or hub name that vLLM would read.

    Raises:
        ValueError: With the way out.
    """
    if trainer.state.fn == "test" and asked.engine != own.engine:
        raise ValueError(
            f"`generation.engine: {own.engine}` answers the domain, and another engine is asked for general abilities; memory holds one: "
            "give both the same, or test twice."
        )
    of_folder = pretrained is not None and not trainer.ckpt_path and trainer.world_size == 1 and trainer.state.fn != "fit"
    if asked.engine == "vllm" and not of_folder:
        raise ValueError(
            "`generation.engine: vllm` reads a model folder in one process; train with `transformers`, then `lit-talr test` the export with "
            "`--model.pretrained RUN/export`, without `--ckpt_path`."
        )
    if shards_weights(trainer.strategy):
        raise ValueError(
            "Responses are not generated where every weight is sharded (ZeRO-3, FSDP2); test the export, `--model.pretrained RUN/export`, in one "
            "process or under DDP or ZeRO-2."
        )
