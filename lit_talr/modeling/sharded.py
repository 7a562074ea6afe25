"""Models of which no rank ever holds the whole: under ZeRO-3 and FSDP2 each rank has a share of every weight."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from lightning.pytorch.strategies import Strategy
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights

from lit_talr.modeling.strategies import is_zero3
from lit_talr.utils.weight_files import TensorInfo, read_tensor, tensors


@contextmanager
def zero3_drawing(strategy: Strategy) -> Iterator[None]:
    """Inside, under ZeRO-3, transformers gathers the weights that it draws at random; it knows by an object that must live."""
    if is_zero3(strategy):
        from transformers.integrations import HfDeepSpeedConfig

        alive = HfDeepSpeedConfig(strategy.config)
        yield
        del alive
    else:
        yield


def shard(module: nn.Module, layers: nn.ModuleList, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shard a module over the ranks by FSDP2, in place: each of its layers, and the rest together.

    Args:
        module: The one whose ``forward`` is called.
        layers: Parts of it that are gathered one at a time.
        mesh: Of one dimension, all ranks.
        dtype: What the weights are gathered in and multiplied in, if not their own; gradients are reduced in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    for part in (*layers, module):
        fully_shard(part, mesh=mesh, mp_policy=policy)


@torch.no_grad()
def whole(value: Tensor) -> Tensor:
    """The whole of a model's weight or buffer, in float32 where an engine keeps such a master of it. Every rank calls it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if hasattr(value, "ds_id") or hasattr(value, "_hp_mapping"):  # DeepSpeed's, of stage 3 or below
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        if value.requires_grad and (master := safe_get_full_fp32_param(value)) is not None:
            return master
        with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
            return value.detach().clone()
    return value.detach()


def empty_model(folder: Path, attention: str | None, dtype: torch.dtype | None, zero3: bool) -> PreTrainedModel:
    """A model in ``dtype``, or else the default dtype, whose weights hold nothing yet: by ZeRO-3 a rank gets its share of them, else they take no memory."""
    with no_init_weights() if zero3 else init_empty_weights(include_buffers=False):
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.get_default_dtype(), attn_implementation=attention)
    model.tie_weights()  # which the latter took apart
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.train()


def exact_buffers(model: PreTrainedModel) -> None:
    """Compute the buffers of a model anew. Under ZeRO-3 DeepSpeed rounds what is computed while a model is built to the dtype of the weights, in bfloat16 with
    rotary frequencies that turn far positions into others.
    """
    from deepspeed.runtime.zero.partition_parameters import restore_init_context, shutdown_init_context

    shutdown_init_context()
    try:
        with init_empty_weights(include_buffers=False):
            exact = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    finally:
        restore_init_context()
    for module, right in zip(model.modules(), exact.modules(), strict=True):
        module._buffers.update({name: right._buffers[name].to(buffer.device) for name, buffer in module._buffers.items() if buffer is not None})


def load_shards(model: PreTrainedModel, folder: Path, device: torch.device) -> None:
    """Give a sharded model the weights of a folder; each rank reads of each tensor the rows that it owns.

    Raises:
        ValueError: For a tensor that is missing, left over, or of another shape, by its name.
    """
    if any(parameter.is_meta for parameter in model.parameters()):  # FSDP2's
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.to_empty(device=device)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    targets = model.state_dict(keep_vars=True)
    left = {id(target) for target in targets.values()}  # a tied weight once
    for name, info in model_tensors(model, folder).items():
        if name not in targets:
            raise ValueError(f"{folder} has a tensor `{name}`, which its architecture has not; fetch or write the folder anew.")
        target = targets[name]
        shape = tuple(getattr(target, "ds_shape", target.shape))
        if shape != info.shape:
            raise ValueError(f"{folder}: `{name}` is {list(info.shape)}, its configuration says {list(shape)}; fetch or write the folder anew.")
        read_own_part(target, info)
        left.discard(id(target))
    for name, target in targets.items():
        if id(target) in left:
            raise ValueError(f"{folder} has no tensor `{name}`, which its configuration asks for; fetch or write the folder anew.")


@torch.no_grad()
def exact_masters(model: PreTrainedModel, folder: Path) -> None:
    """Give DeepSpeed's fp32 masters the weights of a folder in float32, tensor by tensor; it has made them of rounded weights. Every rank calls it."""
    from deepspeed.utils import safe_set_full_fp32_param

    parameters = dict(model.named_parameters())
    for name, info in model_tensors(model, folder).items():
        if info.dtype == "F32" and name in parameters and parameters[name].requires_grad:
            safe_set_full_fp32_param(parameters[name], read_tensor(info).to(parameters[name].device))


def model_tensors(model: PreTrainedModel, folder: Path) -> dict[str, TensorInfo]:
    """The tensors in a folder under the names that they have in the model, as transformers renames them."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    own = model.state_dict()
    return {rename_source_key(name, renamings, converters, model.base_model_prefix, own)[0]: info._replace(name=name) for name, info in tensors(folder).items()}


@torch.no_grad()
def read_own_part(target: Tensor, info: TensorInfo) -> None:
    """Fill this rank's part of a weight from a file that is opened for it alone: of FSDP2 some of its rows, of ZeRO-3 a piece of the flat weight."""
    if isinstance(target, DTensor):
        (rows, *_), (first, *_) = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
        target.to_local().copy_(read_rows(info, first, first + rows))
    elif hasattr(target, "ds_tensor"):
        part, width = target.ds_tensor, prod(info.shape[1:])
        start = part.numel() * dist.get_rank()
        end = min(start + part.numel(), prod(info.shape))
        if start < end:
            first = start // width
            flat = read_rows(info, first, -(-end // width)).reshape(-1)
            part[: end - start].copy_(flat[start - first * width : end - first * width])
    else:  # a buffer
        target.copy_(read_tensor(info))


def read_rows(info: TensorInfo, first: int, last: int) -> Tensor:
    with safe_open(info.file, framework="pt") as file:
        return file.get_slice(info.name)[first:last]
