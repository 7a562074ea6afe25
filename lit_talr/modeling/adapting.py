"""Puts adapters into a model, merges them into its weights, and saves them for PEFT."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import peft.tuners.boft.layer
import torch
from peft import BOFTConfig, LoraConfig, OFTConfig, OSFConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora import LoraLayer
from peft.tuners.osf import OSFLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_talr.modeling.adapters import Adapter

ADAPTER = "default"
START = "start"
"""Adapter that subtracts the update that the trained one begins with, where that is not zero."""


def add_adapters(model: nn.Module, decoder: nn.Module, head: nn.Module, adapter: Adapter) -> None:
    """Adds adapters to the decoder, in place: its layers get a base layer, and weights in the default dtype next to it. Only these are trained.

    The base layers keep the model's own weights, bit by bit, so that with its adapters off it is the base model.
    """
    layers = adapted_layers(model, decoder, head, adapter.targets)
    config = adapter.config(layers)
    weights = {name: layer.weight.data for name, layer in layers.items()}
    if reads_weights(config):
        for layer in layers.values():
            layer.weight.data = layer.weight.data.to(torch.float32, copy=True)  # factors of rounded weights would not be orthogonal
    inject(model, config)
    for name, layer in layers.items():
        layer.weight.data = weights[name]
    started = [value for module in model.modules() if isinstance(module, BufferDict) for value in module.buffers()]
    for value in (*started, *(parameter for parameter in model.parameters() if parameter.requires_grad)):  # PEFT gives them the base layer's dtype
        value.data = value.data.to(torch.get_default_dtype())


def adapted_layers(model: nn.Module, decoder: nn.Module, head: nn.Module, chosen: tuple[str, ...] | None) -> dict[str, nn.Linear]:
    """The linear layers of the decoder that get adapters, by their names in the model.

    Raises:
        ValueError: For a name that is none of them, for the head, and for a mixture of experts without names.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    inside = {id(module) for module in decoder.modules()}
    names = {name.rsplit(".", 1)[-1] for name, module in linear.items() if id(module) in inside}
    if chosen is None and (experts := fused_experts(decoder)):
        raise ValueError(
            f"`adapter.targets` must be given for this model, whose experts (`{experts[0]}`) are no linear layers and cannot have adapters; name the layers "
            f"that get one: there are {', '.join(sorted(names))}."
        )
    targets = names if chosen is None else set(chosen)
    for target in targets:
        if target in {name.rsplit(".", 1)[-1] for name, module in linear.items() if module is head}:
            raise ValueError(f"`adapter.targets` must not hold `{target}`: the head has its own backward, which does not support adapters; leave it out.")
        if target not in names:
            raise ValueError(f"`adapter.targets`: `{target}` is not a linear layer of the decoder; there are {', '.join(sorted(names))}.")
    return {name: module for name, module in linear.items() if id(module) in inside and name.rsplit(".", 1)[-1] in targets}


def fused_experts(decoder: nn.Module) -> list[str]:
    """Names the weights of experts that lie in one tensor, ``[E, out, in]``."""
    return [name for name, parameter in decoder.named_parameters() if parameter.dim() == 3 and "experts" in name]


def reads_weights(config: PeftConfig) -> bool:
    """Whether an adapter begins with something computed from the frozen weights."""
    if isinstance(config, LoraConfig):
        return config.use_dora or starts_elsewhere(config)
    return not isinstance(config, OFTConfig | BOFTConfig)


def starts_elsewhere(config: PeftConfig) -> bool:
    """Whether PEFT would subtract what a LoRA begins with from the frozen weights."""
    return isinstance(config, LoraConfig) and str(config.init_lora_weights).startswith(("pissa", "olora"))


def inject(model: nn.Module, config: PeftConfig, loads: bool = False) -> None:
    """Adds adapters by PEFT, whose state dict has all that they need besides the base layer's weights.

    Args:
        model: Has the layers that ``config`` names.
        config: Of the adapters.
        loads: Whether all tensors are loaded afterwards, so that none needs a beginning.
    """
    peft.tuners.boft.layer._FBD_CUDA = False  # type: ignore[assignment]  # BOFT's CUDA extension, which would be compiled now, and does not run on a CPU
    one: Any = deepcopy(config)
    if loads and isinstance(config, LoraConfig):
        one.init_lora_weights = True
    inject_adapter_in_model(one, model, adapter_name=ADAPTER)
    for module in model.modules():
        if isinstance(module, BufferDict):
            module._non_persistent_buffers_set.clear()
        if isinstance(module, OSFLayer):
            project_in_float(module)
    if starts_elsewhere(config):
        for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
            subtract_start(layer, config)


def project_in_float(layer: OSFLayer) -> None:
    """Lets PEFT's hooks project gradients in float32 also where an engine rounds the trained weights, and their gradients, to half precision."""
    for parameter in layer.osf_svd_params[ADAPTER].parameters():
        for key, hook in (parameter._backward_hooks or {}).items():
            parameter._backward_hooks[key] = partial(call_in_float, hook)  # type: ignore[index]


def call_in_float(hook: Callable[[Tensor], Any], gradient: Tensor) -> Tensor:
    projected: Tensor = hook(gradient.to(torch.promote_types(gradient.dtype, torch.float32)))
    return projected.to(gradient.dtype)


def subtract_start(layer: LoraLayer, config: PeftConfig) -> None:
    """Subtracts the update that the adapter begins with, by a second, frozen one."""
    plain: Any = replace(config, init_lora_weights=True, lora_dropout=0.0)  # type: ignore[call-arg]
    layer.update_layer(START, layer.r[ADAPTER], layer.lora_alpha[ADAPTER], config=plain)
    for part in (layer.lora_A, layer.lora_B):
        trained: Any = part[ADAPTER]
        start: Any = part[START]
        del start.weight
        start.register_buffer("weight", trained.weight.detach().clone())  # PEFT would train a parameter
    layer.scaling[START] = -layer.scaling[ADAPTER]
    BaseTunerLayer.set_adapter(layer, [ADAPTER, START])


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """The layers with adapters, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def adapter_names(model: nn.Module) -> Iterator[str]:
    """The names of the tensors of a model's state dict that belong to its adapters."""
    for layer, module in tuner_layers(model).items():
        yield from (f"{layer}.{name}" for name in module.state_dict() if not name.startswith("base_layer."))  # type: ignore[attr-defined]


def merged_weight(config: PeftConfig, state: Mapping[str, Tensor]) -> Tensor:
    """The weight ``[out, in]`` of one layer with its adapter merged in, by PEFT, in float32 (float64 for a float64 adapter).

    Args:
        config: Of the adapter.
        state: The state dict of the layer; its tensors are not changed.
    """
    wide = {name: value.to(torch.promote_types(value.dtype, torch.float32), copy=True) for name, value in state.items()}
    base = {name.removeprefix("base_layer."): value for name, value in wide.items() if name.startswith("base_layer.")}
    holder = nn.Module()
    holder.layer = nn.Linear(base["weight"].shape[1], base["weight"].shape[0], bias="bias" in base, device="meta")
    if not isinstance(config, OSFConfig):  # whose SVD need not be computed again: its factors are in the state
        holder.layer.load_state_dict(base, assign=True)
    one: Any = deepcopy(config)
    one.target_modules, one.inference_mode = {"layer"}, False
    with torch.random.fork_rng(devices=()):  # what PEFT draws is replaced
        inject(holder, one, loads=True)
    layer: Any = holder.layer
    layer.load_state_dict(wide, assign=True)
    assert not any(value.is_meta for value in (*layer.parameters(), *layer.buffers()))
    layer.merge()
    weight: Tensor = layer.get_base_layer().weight.detach()
    return weight


def adapter_record(config: PeftConfig) -> dict[str, Any]:
    """A configuration as JSON, for ``PeftConfig.from_peft_type``."""
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}


def save_adapters(model: nn.Module, state: Mapping[str, Tensor], folder: Path, base: str, revision: str | None) -> None:
    """Writes the adapters for ``PeftModel.from_pretrained(base_model, folder)``, which need nothing but the base model.

    Args:
        model: With its adapters.
        state: Their tensors, as ``adapter_names`` names them.
        folder: Where they are written.
        base: Folder or hub name of the base model.
        revision: Its commit, tag or branch.
    """
    config: PeftConfig = model.peft_config[ADAPTER]  # type: ignore[index,assignment]
    parameters = {name: state[name] for name, _ in model.named_parameters() if name in state}
    trained = get_peft_model_state_dict(model, parameters, ADAPTER, save_embedding_layers=False)  # there are none
    if starts_elsewhere(config):
        config, trained = as_plain(config, trained, state)  # type: ignore[arg-type]
    config = replace(config, base_model_name_or_path=base, revision=revision, inference_mode=True)
    save_file({f"base_model.model.{name}": value.contiguous() for name, value in trained.items()}, folder / "adapter_model.safetensors")
    config.save_pretrained(str(folder))


def as_plain(config: LoraConfig, trained: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """A LoRA of twice the rank that begins with nothing: ``B A - B_0 A_0 = [B, -B_0] [A; A_0]``."""
    plain = {}
    for name, value in trained.items():
        start = state[name.removesuffix("weight") + f"{START}.weight"].to(value)
        plain[name] = torch.cat([value, start]) if ".lora_A." in name else torch.cat([value, -start], dim=1)
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    alpha = 2 * config.r * scaling  # PEFT's type is int, and it takes any number
    return replace(config, r=2 * config.r, lora_alpha=alpha, use_rslora=False, init_lora_weights=True), plain  # type: ignore[arg-type]
