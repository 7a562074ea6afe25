"""Low-rank adapters by PEFT: added to a model and saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_talr.utils.errors import check_in, check_least

ADAPTER = "default"


@dataclass(frozen=True)
class LoRA:
    """``W = W_0 + (alpha / r) B A``: small matrices A and B are trained next to each frozen weight W_0 (Hu et al., arXiv:2106.09685).

    The paper's settings are not known; r = alpha = 64 without dropout are FLOW's (arXiv:2502.02797). The paper runs LoRA at the learning rates of full
    fine-tuning, where it hardly learns; rates a hundred times larger are usual.

    Args:
        r: Rank, at least 1.
        alpha: The update is scaled by alpha / r; at least 1.
        dropout: Dropout on the adapters' input, in [0, 1).
        targets: Linear layers of the decoder that get an adapter, by the last part of their name; all by default, never the head. The experts of a
            mixture are no linear layers, so there it must be given.

    Raises:
        ValueError: For a value out of range; once the model is loaded, for a name that is not a linear layer of its decoder.
    """

    r: int = 64
    alpha: int = 64
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_least("lora.r", self.r, 1)
        check_least("lora.alpha", self.alpha, 1)
        check_in("lora.dropout", self.dropout, "[0, 1)")
        if self.targets == ():
            raise ValueError("`lora.targets` must name at least one layer, got none; leave it out for all of the decoder's.")

    def __str__(self) -> str:
        layers = "all linear layers" if self.targets is None else ", ".join(self.targets)
        return f"LoRA(r={self.r}, alpha={self.alpha}, dropout={self.dropout:g}, {layers})"


def add_adapters(model: nn.Module, decoder: nn.Module, head: nn.Module, lora: LoRA) -> None:
    """Adds adapters to the decoder, in place: its layers get a base layer and two matrices in the default dtype. Only these are trained."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    inside = {id(module) for module in decoder.modules()}
    names = {name.rsplit(".", 1)[-1] for name, module in linear.items() if id(module) in inside}
    if lora.targets is None and (experts := fused_experts(decoder)):
        raise ValueError(
            f"`lora.targets` must be given for this model, whose experts (`{experts[0]}`) are no linear layers and cannot have adapters; name the layers that "
            f"get one: there are {', '.join(sorted(names))}."
        )
    targets = names if lora.targets is None else set(lora.targets)
    for target in targets:
        if target in {name.rsplit(".", 1)[-1] for name, module in linear.items() if module is head}:
            raise ValueError(f"`lora.targets` must not hold `{target}`: the head has its own backward, which does not support adapters; leave it out.")
        if target not in names:
            raise ValueError(f"`lora.targets`: `{target}` is not a linear layer of the decoder; there are {', '.join(sorted(names))}.")
    chosen = [name for name, module in linear.items() if id(module) in inside and name.rsplit(".", 1)[-1] in targets]
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=chosen,
        bias="none",
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # PEFT gives them the base layer's dtype
            assert "lora_" in name
            parameter.data = parameter.data.to(torch.get_default_dtype())


def fused_experts(decoder: nn.Module) -> list[str]:
    """Names the weights of experts that lie in one tensor, ``[E, out, in]``."""
    return [name for name, parameter in decoder.named_parameters() if parameter.dim() == 3 and "experts" in name]


def save_adapters(model: nn.Module, state: Mapping[str, Tensor], folder: Path, base: str, revision: str | None) -> None:
    """Writes the adapters for ``PeftModel.from_pretrained(base_model, folder)``."""
    configs: dict[str, Any] = model.peft_config  # type: ignore[assignment]
    config = configs[ADAPTER]
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    adapters = get_peft_model_state_dict(model, state_dict=dict(state), adapter_name=ADAPTER, save_embedding_layers=False)  # there are none
    save_file({f"base_model.model.{name}": value.contiguous() for name, value in adapters.items()}, folder / "adapter_model.safetensors")
    config.save_pretrained(folder)
