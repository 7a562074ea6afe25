"""Facts that memory and time follow from, read from the configuration of ``fit``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from torch.optim import Optimizer
from transformers import PretrainedConfig

from lit_talr.data.batch_plan import Batching
from lit_talr.losses.base import RUNNING_BASE, LossStrategy
from lit_talr.modeling.adapters import Adapter
from lit_talr.modeling.loading import check_folder, new_config, read_config
from lit_talr.modeling.strategies import is_deepspeed, is_zero3, splits_optimizer
from lit_talr.training.building import Compute
from lit_talr.utils.errors import check_in, check_least
from lit_talr.utils.files import shipped

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16, "32-true": None}
"""The half precision that each of the trainer's precisions multiplies in."""


@dataclass(frozen=True)
class Facts:
    """A run as an estimate sees it.

    Raises:
        ValueError: For a number out of range, and a precision that is not in HALF.
    """

    config: PretrainedConfig
    compute: Compute
    adapter: Adapter | None  # trained in place of the weights
    loss: LossStrategy
    optimizer: Callable[[Any], Optimizer]
    precision: str  # the trainer's
    strategy: Strategy  # not started
    ranks: int  # one device each, at least 1
    batching: Batching
    length: int  # tokens of a row, padding included, at least 2
    supervised: float  # share of the tokens that carry loss, in (0, 1]
    new_tokens: int  # most tokens of a response in ``test``
    gpu: bool = True  # whether devices are GPUs

    def __post_init__(self) -> None:
        check_least("--ranks", self.ranks, 1)
        check_least("--length", self.length, 2)
        check_in("--supervised", self.supervised, "(0, 1]")
        if self.precision not in HALF:
            raise ValueError(f"`trainer.precision` must be one of {', '.join(HALF)} for an estimate, got {self.precision}.")

    @property
    def rows(self) -> int:
        """Rows of a micro-batch."""
        limit = self.batching.micro_batch_tokens
        return (self.batching.micro_batch_size or 1) if limit is None else max(1, limit // self.length)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step on each rank."""
        return -(-self.batching.batch_size // (self.rows * self.ranks))

    @property
    def half(self) -> torch.dtype | None:
        """The half precision that matrices are multiplied in, if one."""
        return HALF[self.precision]

    @property
    def itemsize(self) -> int:
        """Bytes of an element of what matrices multiply."""
        return self.half.itemsize if self.half else 4

    @property
    def owned_itemsize(self) -> int:
        """Bytes of an element of the weights that the optimizer steps, and of its state."""
        return self.itemsize if self.precision.endswith("true") and not is_deepspeed(self.strategy) else 4

    @property
    def engine(self) -> str:
        """The strategy in words."""
        if is_deepspeed(self.strategy):
            return f"ZeRO-{3 if is_zero3(self.strategy) else (self.strategy.config or {}).get('zero_optimization', {}).get('stage', 2)}"
        return "FSDP2" if splits_optimizer(self.strategy) else "DDP" if self.ranks > 1 else "one process"

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
        ValueError: For a model that is not found, and for what ``Facts`` refuses.
    """
    trainer, module, data = run.trainer, run.model, run.data
    devices = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
    if ranks is None:
        ranks = devices * trainer.num_nodes if isinstance(devices, int) and devices > 0 else 1
    strategy = trainer.strategy
    if strategy == "auto":
        strategy = SingleDeviceStrategy() if ranks == 1 else DDPStrategy()
    elif not isinstance(strategy, Strategy):
        strategy = StrategyRegistry.get(strategy)
    if module.pretrained is not None:
        pretrained = shipped(module.pretrained)
        check_folder(pretrained)
        config = read_config(pretrained, module.revision)
    else:
        known = "vocab_size" in str(module.architecture)  # or it is the tokenizer's
        config = new_config(module.architecture or {}, 0 if known else len(data.encoder.tokenizer))
    length = data.encoding.max_length if length is None else length
    layout = strategy, ranks, data.batching, length, supervised, module.generation.max_new_tokens, trainer.accelerator != "cpu"
    return Facts(config, module.compute, module.adapter, module.loss, module.optimizer, str(trainer.precision or "32-true"), *layout)
