"""The arithmetic of scores: what a model is computed in while it is scored."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Trainer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lit_talr.modeling.adapting import ADAPTER, merged_weight
from lit_talr.modeling.sharded import whole
from lit_talr.modeling.strategies import is_deepspeed, shards_weights, splits_optimizer

Arithmetic = Literal["training", "fp32", "bf16"]
"""``training``: as the forward pass of training; ``fp32``: weights and products in float32; ``bf16``: weights rounded to bfloat16, as they are served."""
WORDS = {
    **{"32-true": "fp32", "64-true": "fp64", "bf16-true": "bf16 weights", "16-true": "fp16 weights"},
    **{"bf16-mixed": "bf16 autocast", "16-mixed": "fp16 autocast"},
}
"""Arithmetics by the trainer's precision."""


def arithmetic_name(trainer: Trainer, arithmetic: Arithmetic) -> str:
    """The arithmetic in words, as records have it: ``fp32``, ``bf16 autocast``, ``bf16 weights``."""
    return name_arithmetic(str(trainer.precision), splits_optimizer(trainer.strategy), arithmetic)


def name_arithmetic(precision: str, engine: bool, arithmetic: Arithmetic) -> str:
    """The same by the trainer's precision, and by whether an engine (DeepSpeed, FSDP2) trains, which rounds the weights themselves."""
    if arithmetic == "training":
        return WORDS[precision].replace("autocast", "weights") if engine else WORDS[precision]
    return "fp32" if arithmetic == "fp32" else "bf16 weights"


def loaded_in(name: str) -> tuple[torch.dtype, torch.dtype | None]:
    """The dtype of weights, and that of autocast if there is one, by the arithmetic in words."""
    dtype = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name.split()[0]]
    return (torch.float32, dtype) if name.endswith("autocast") else (dtype, None)


def is_training(trainer: Trainer, arithmetic: Arithmetic) -> bool:
    """Whether scores are computed as the forward pass of training is."""
    return arithmetic_name(trainer, arithmetic) == arithmetic_name(trainer, "training")


def check_arithmetic(trainer: Trainer, arithmetic: Arithmetic) -> None:
    """Refuses an arithmetic that is unknown, and one that sharded weights cannot be brought into.

    Raises:
        ValueError: With the way out.
    """
    if arithmetic not in get_args(Arithmetic):
        raise ValueError(f"`model.arithmetic` must be one of {', '.join(get_args(Arithmetic))}, got {arithmetic!r}.")
    if shards_weights(trainer.strategy) and not is_training(trainer, arithmetic):
        raise ValueError(
            f"`model.arithmetic: {arithmetic}` is not supported where every weight is sharded (ZeRO-3, FSDP2) in `trainer.precision: {trainer.precision}`; "
            "leave it out, and score the export, `--model.pretrained RUN/export`, in one process."
        )


def forward_context(trainer: Trainer, arithmetic: Arithmetic) -> AbstractContextManager[None]:
    """Lets the trainer's precision rule the block, or switches it off; the weights are another matter (``scored_weights``)."""
    return trainer.precision_plugin.forward_context() if is_training(trainer, arithmetic) else plain_forward(trainer.strategy.root_device.type)


@contextmanager
def plain_forward(device: str) -> Iterator[None]:
    """No autocast, and float32 as the default dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)


def weights_dtype(trainer: Trainer, arithmetic: Arithmetic) -> torch.dtype | None:
    """The dtype that weights are read in while the model is scored; None for that of training."""
    return None if is_training(trainer, arithmetic) else {"fp32": torch.float32, "bf16": torch.bfloat16}[arithmetic]


def scored_weights(trainer: Trainer, model: nn.Module, arithmetic: Arithmetic) -> AbstractContextManager[None]:
    """Gives the model the weights that are scored, inside the block. Collective under DeepSpeed."""
    dtype = weights_dtype(trainer, arithmetic)
    return nullcontext() if dtype is None else weights_in(model, dtype, masters=is_deepspeed(trainer.strategy))


@contextmanager
@torch.no_grad()
def weights_in(model: nn.Module, dtype: torch.dtype, masters: bool) -> Iterator[None]:
    """Gives a model weights of another dtype inside the block; buffers stay as they are, as transformers keeps them.

    In half precision adapters are merged into their weights before these are rounded, as an export has them. The trained weights are set aside untouched:
    a change of their dtype would detach the hooks by which DDP averages their gradients. This takes memory for a second copy in the new dtype.

    Args:
        model: Not sharded.
        dtype: The dtype.
        masters: Whether an engine keeps more precise weights elsewhere, which are read then.
    """
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)] if dtype.itemsize < 4 else []
    disabled = [module.disable_adapters for module in adapted]
    config: Any = next((module.peft_config[ADAPTER] for module in model.modules() if hasattr(module, "peft_config")), None)  # type: ignore[index]
    merged = {id(layer.get_base_layer().weight): layer for layer in adapted}
    places = [(module, name, weight) for module in model.modules() for name, weight in module._parameters.items() if weight is not None]
    scored: dict[int, nn.Parameter] = {}  # a tied weight once
    for _, _, weight in places:
        if weight.is_floating_point() and id(weight) not in scored:
            value = whole(weight) if masters else weight.detach()
            if id(weight) in merged:
                value = merged_weight(config, {name: whole(part) for name, part in merged[id(weight)].state_dict(keep_vars=True).items()})
            scored[id(weight)] = nn.Parameter(value.to(dtype), requires_grad=False)
    try:
        for module, name, weight in places:
            module._parameters[name] = scored.get(id(weight), weight)
        for layer in adapted:
            layer.enable_adapters(False)
        yield
    finally:
        for module, name, weight in places:
            module._parameters[name] = weight
        for layer, was_disabled in zip(adapted, disabled, strict=True):
            layer.enable_adapters(not was_disabled)
