"""Facts that memory and time follow from, read from the configuration of ``fit``."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from torch.optim import Optimizer
from transformers import PretrainedConfig

from lit_talr.data.batch_plan import Batching
from lit_talr.losses.base import RUNNING_BASE, LossStrategy
from lit_talr.modeling.adapters import Adapter
from lit_talr.modeling.loading import new_config, read_config
from lit_talr.modeling.strategies import FSDP2Strategy, is_deepspeed, is_zero3
from lit_talr.training.building import Compute
from lit_talr.training.supported import offloads
from lit_talr.utils.errors import check_in, check_least
from lit_talr.utils.files import shipped

GIB = 2**30
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16, "16-true": torch.float16}
"""The half precision that a trainer's precision multiplies in."""


@dataclass(frozen=True)
class Facts:
    """A run as an estimate sees it.

    Args:
        config: Of the model.
        compute: How the model is computed.
        adapter: Trained in place of the weights.
        loss: The loss.
        optimizer: Makes the optimizer.
        precision: The trainer's.
        strategy: Not started.
        ranks: Processes, one device each, at least 1.
        batching: How rows become optimizer steps.
        length: Tokens of a row, padding included, at least 2.
        supervised: Share of the tokens that carry loss, in (0, 1].
        new_tokens: Most tokens of a response in ``test``.
        gpu: Whether devices are GPUs.
    """

    config: PretrainedConfig
    compute: Compute
    adapter: Adapter | None
    loss: LossStrategy
    optimizer: Callable[[Any], Optimizer]
    precision: str
    strategy: Strategy
    ranks: int
    batching: Batching
    length: int
    supervised: float
    new_tokens: int
    gpu: bool = True

    def __post_init__(self) -> None:
        check_least("--ranks", self.ranks, 1)
        check_least("--length", self.length, 2)
        check_in("--supervised", self.supervised, "(0, 1]")

    @property
    def rows(self) -> int:
        """Rows of a micro-batch."""
        limit = self.batching.micro_batch_tokens
        return (self.batching.micro_batch_size or 1) if limit is None else max(1, limit // self.length)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step on each rank."""
        return math.ceil(math.ceil(self.batching.batch_size / self.rows) / self.ranks)

    @property
    def labels(self) -> int:
        """Supervised tokens of a micro-batch."""
        return max(1, round(self.rows * self.length * self.supervised))

    @property
    def half(self) -> torch.dtype | None:
        """The half precision that matrices are multiplied in, if one."""
        return HALF.get(self.precision)

    @property
    def rounds_weights(self) -> bool:
        """Whether the weights of the forward pass are in half precision: an engine's copies of fp32 masters, or the weights themselves."""
        return self.half is not None and (self.precision.endswith("true") or is_deepspeed(self.strategy) or isinstance(self.strategy, FSDP2Strategy))

    @property
    def engine(self) -> str:
        """The strategy in words."""
        if is_deepspeed(self.strategy):
            stage = 3 if is_zero3(self.strategy) else (self.strategy.config or {}).get("zero_optimization", {}).get("stage", 2)
            return f"ZeRO-{stage}"
        return "FSDP2" if isinstance(self.strategy, FSDP2Strategy) else "DDP" if self.ranks > 1 else "one process"

    @property
    def offloads_optimizer(self) -> bool:
        return is_deepspeed(self.strategy) and offloads(self.strategy) is not None

    @property
    def runs_base(self) -> bool:
        """Whether the base model runs next to the trained one."""
        return bool(self.loss.needs & RUNNING_BASE)


def read_facts(run: Namespace, ranks: int | None, length: int | None, supervised: float) -> Facts:
    """Reads the facts of a run.

    Args:
        run: What ``fit`` makes of its configuration: ``trainer`` (options, and a strategy or its name), ``model`` (the module) and ``data``.
        ranks: Number of ranks; by default the trainer's devices and nodes, or one where these are left to the machine.
        length: Tokens of a row; by default the most that the encoding leaves.
        supervised: Share of the tokens that carry loss.

    Raises:
        ValueError: For a model that is not found, and a number out of range.
    """
    trainer, module, data = run.trainer, run.model, run.data
    devices = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
    if ranks is None:
        ranks = devices * trainer.num_nodes if isinstance(devices, int) and devices > 0 else 1
    strategy = trainer.strategy
    if not isinstance(strategy, Strategy):
        single = strategy == "auto" and ranks == 1
        strategy = SingleDeviceStrategy() if single else DDPStrategy() if strategy == "auto" else strategy_of_name(strategy)
    if module.pretrained is not None:
        config = read_config(str(Path(shipped(module.pretrained))), module.revision)
    else:
        known = "vocab_size" in str(module.architecture)  # or it is the tokenizer's
        config = new_config(module.architecture or {}, 0 if known else len(data.encoder.tokenizer))
    length = data.encoding.max_length if length is None else length
    layout = strategy, ranks, data.batching, length, supervised, module.generation.max_new_tokens, trainer.accelerator != "cpu"
    return Facts(config, module.compute, module.adapter, module.loss, module.optimizer, str(trainer.precision or "32-true"), *layout)


def strategy_of_name(name: str) -> Strategy:
    """The strategy that Lightning has under a name."""
    entry = StrategyRegistry[name]
    made: Strategy = entry["strategy"](**entry["init_params"])
    return made
