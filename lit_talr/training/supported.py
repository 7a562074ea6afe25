"""What a trainer must be for the accounting of tokens to be exact; everything else is refused by name."""

from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy, is_zero3, shards_weights


def check_trainer(trainer: Any, bf16_weights: bool, lora: bool = False) -> None:
    """Refuse what would break the exact accounting, or the method.

    Raises:
        ValueError: Naming the option and the way out.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, DeepSpeedStrategy, FSDP2Strategy)):
        raise ValueError(f"`trainer.strategy` {type(strategy).__name__} is not supported; use one of configs/strategy.")
    if isinstance(strategy, DeepSpeedStrategy) and strategy.config and strategy.config.get("zero_optimization", {}).get("stage") not in (1, 2, 3):
        raise ValueError("DeepSpeed is supported with ZeRO stage 1, 2 or 3; use configs/strategy/zero2.yaml or its like.")
    if is_zero3(strategy) and ((strategy.config or {})["zero_optimization"].get("offload_param") or {}).get("device") == "nvme":
        raise ValueError("DeepSpeed's `offload_param` to nvme is not supported, since models are loaded into memory, each rank its part; offload to cpu.")
    if lora and shards_weights(strategy):
        raise ValueError("`model.lora` is not supported where every weight is sharded (ZeRO-3, FSDP2); use configs/strategy/ddp.yaml or zero2.yaml.")
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):
        raise ValueError("`GradientAccumulationScheduler` is not supported: the micro-batches of a step follow from `data.batching`.")
    if trainer.overfit_batches:
        raise ValueError("`trainer.overfit_batches` is not supported, since it cuts optimizer steps; use `trainer.max_steps` instead.")
    if not (isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches == 1.0):  # 1 is one micro-batch; fast_dev_run sets it
        raise ValueError(
            f"`trainer.limit_train_batches` {trainer.limit_train_batches} is not supported, since it cuts optimizer steps and epochs; use `trainer.max_steps`."
        )
    if isinstance(strategy, DDPStrategy) and strategy._start_method != "popen":
        raise ValueError("`trainer.strategy: ddp_spawn` and its like are not supported; use `ddp`.")
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, DeepSpeedCPUStrategy) and not isinstance(trainer.accelerator, CUDAAccelerator):
        raise ValueError("DeepSpeed needs GPUs; on CPU ranks use configs/strategy/zero2-cpu.yaml.")
    if trainer.precision == "16-true":
        raise ValueError("`trainer.precision: 16-true` keeps the weights in fp16, in which AdamW's steps overflow; use `bf16-mixed`.")
    if trainer.precision == "bf16-true" and not isinstance(strategy, DeepSpeedStrategy) and not bf16_weights:
        raise ValueError(
            "`trainer.precision: bf16-true` keeps the weights in bf16, where at a learning rate of 1e-6 about one in fifty ever moves; "
            "use `bf16-mixed` (fp32 weights), or insist with `model.bf16_weights: true`."
        )
    if trainer.max_epochs is not None and trainer.max_epochs < 0 and trainer.max_steps < 0:
        raise ValueError("Give `trainer.max_epochs` or `trainer.max_steps`: the learning rate's schedule needs the end of the run.")
