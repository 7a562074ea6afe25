"""Models that no rank ever holds whole: under ZeRO-3 and FSDP2 each rank has a shard of every weight."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

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
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.utils import GENERATION_CONFIG_NAME

from lit_talr.modeling.families import check_family
from lit_talr.modeling.generation import read_valid
from lit_talr.modeling.loading import read_config
from lit_talr.modeling.strategies import is_zero3, whole_models
from lit_talr.utils.collectives import local
from lit_talr.utils.errors import without_code
from lit_talr.utils.weight_files import TensorInfo, read_tensor, tensors


class Part(NamedTuple):
    """The elements of a parameter that this rank owns, inside a tensor that its optimizer steps."""

    number: int  # of the parameter, in the order in which the optimizer got them
    start: int  # in the flattened tensor
    end: int
    first: int  # index of the first of them in the flattened parameter


@contextmanager
def zero3_drawing(strategy: Strategy) -> Iterator[None]:
    """Lets transformers gather the weights that it draws at random under ZeRO-3, inside the block. A live object tells it so."""
    if is_zero3(strategy):
        from transformers.integrations import HfDeepSpeedConfig

        alive = HfDeepSpeedConfig(strategy.config)
        yield
        del alive
    else:
        yield


def shard(module: nn.Module, layers: nn.ModuleList, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shards a module over the ranks by FSDP2, in place: each of its layers, and the rest together.

    Args:
        module: The module whose ``forward`` is called.
        layers: Its parts that are gathered one at a time.
        mesh: All ranks in one dimension.
        dtype: Dtype that weights are gathered and multiplied in, if not their own; gradients are reduced in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    for part in (*layers, module):
        fully_shard(part, mesh=mesh, mp_policy=policy)


@torch.no_grad()
def whole(value: Tensor) -> Tensor:
    """Returns a whole weight or buffer, in float32 where an engine keeps such a master. Collective."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if hasattr(value, "ds_id") or hasattr(value, "_hp_mapping"):  # DeepSpeed's, at any stage
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        if value.requires_grad and (master := safe_get_full_fp32_param(value)) is not None:
            return master
        with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
            return value.detach().clone()
    return value.detach()


def empty_model(folder: Path, attention: str | None, dtype: torch.dtype | None, zero3: bool) -> PreTrainedModel:
    """Makes a model without values, in ``dtype`` or the default dtype: under ZeRO-3 each rank gets its shards, else weights take no memory."""
    with without_code(f"`model.pretrained`: {folder}"):
        config = read_config(str(folder))
    check_family(config, attention)
    with no_init_weights() if zero3 else init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.get_default_dtype(), attn_implementation=attention, trust_remote_code=False)
    model.tie_weights()  # which init_empty_weights untied
    path = folder / GENERATION_CONFIG_NAME
    if path.is_file():
        model.generation_config = read_valid(path) or GenerationConfig.from_pretrained(folder)
    return model.train()


def exact_buffers(model: PreTrainedModel) -> None:
    """Computes the buffers of a model again. While a model is built under ZeRO-3, DeepSpeed rounds them to the dtype of the weights: rotary frequencies in
    bfloat16 alias distant positions.
    """
    with whole_models(), init_empty_weights(include_buffers=False):
        exact = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype, trust_remote_code=False)
    for module, right in zip(model.modules(), exact.modules(), strict=True):
        module._buffers.update({name: right._buffers[name].to(buffer.device) for name, buffer in module._buffers.items() if buffer is not None})


def load_shards(model: PreTrainedModel, folder: Path, device: torch.device) -> None:
    """Loads a folder into a sharded model; each rank reads its own rows of each tensor.

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
    ignored = [r"rotary_emb\.inv_freq", *(model._keys_to_ignore_on_load_unexpected or [])]  # as transformers leaves them out
    for name, info in model_tensors(model, folder).items():
        if name not in targets and any(re.search(pattern, name) for pattern in ignored):
            continue
        if name not in targets:
            raise ValueError(f"{folder} has a tensor `{name}`, which its architecture does not have; fetch or write the folder anew.")
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
    """Gives DeepSpeed's fp32 masters the weights of a folder in float32, tensor by tensor; it made them from rounded weights. Collective."""
    from deepspeed.utils import safe_set_full_fp32_param

    parameters = dict(model.named_parameters())
    for name, info in model_tensors(model, folder).items():
        if info.dtype == "F32" and name in parameters and parameters[name].requires_grad:
            safe_set_full_fp32_param(parameters[name], read_tensor(info).to(parameters[name].device))


def model_tensors(model: PreTrainedModel, folder: Path) -> dict[str, TensorInfo]:
    """Maps the names of tensors in the model, as transformers renames them, to the tensors in a folder.

    Raises:
        ValueError: For experts that a folder has one by one and the model in one tensor.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    own = model.state_dict()
    found: dict[str, TensorInfo] = {}
    for name, info in tensors(folder).items():
        target = rename_source_key(name, renamings, converters, model.base_model_prefix, own)[0]
        if target in found:
            raise ValueError(
                f"{folder}: `{found[target].name}` and `{name}` are parts of one tensor, `{target}`, which cannot be put together where every weight is "
                "sharded (ZeRO-3, FSDP2); use configs/strategy/ddp.yaml or zero2.yaml."
            )
        found[target] = info._replace(name=name)
    return found


@torch.no_grad()
def read_own_part(target: Tensor, info: TensorInfo) -> None:
    """Fills this rank's part of a weight: some rows under FSDP2, a piece of the flat weight under ZeRO-3."""
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


def parts_of_weights(parameters: Sequence[Tensor]) -> dict[Tensor, list[Part]]:
    """Where this rank's parts of the parameters lie, where the optimizer steps these themselves: whole, or their rows under FSDP2."""
    return {weight: [Part(number, 0, local(weight).numel(), first_element(weight))] for number, weight in enumerate(parameters)}


def first_element(weight: Tensor) -> int:
    """The index of the first element that this rank owns, in the flattened weight."""
    if not isinstance(weight, DTensor):
        return 0
    return compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)[1][0] * prod(weight.shape[1:])


def parts_of_flat(parameters: Sequence[Tensor], engine: Any) -> dict[Tensor, list[Part]]:
    """Where this rank's parts of the parameters lie in the flat fp32 tensors that DeepSpeed's optimizer steps; padding belongs to none.

    Args:
        parameters: The trained parameters, in the same order on all ranks.
        engine: DeepSpeed's optimizer, which holds the flat tensors.
    """
    found: dict[Tensor, list[Part]] = {flat: [] for flat in getattr(engine, "fp32_partitioned_groups_flat", None) or engine.single_partition_of_fp32_groups}
    for number, parameter in enumerate(parameters):
        if hasattr(parameter, "ds_id"):
            index, start, width = engine.grad_position[engine.get_param_id(parameter)]
            first = width * dist.get_rank()
            length = min(width, max(0, parameter.ds_numel - first))  # type: ignore[attr-defined]
            found[engine.fp32_partitioned_groups_flat[index]].append(Part(number, start, start + length, first))
        elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
            fragment = parameter._hp_mapping  # type: ignore[attr-defined]
            address, flat = fragment.hp_fragment_address, engine.single_partition_of_fp32_groups[fragment.param_group_index]
            found[flat].append(Part(number, address.start, address.start + address.numel, fragment.lp_fragment_address.start))
    return found


def read_rows(info: TensorInfo, first: int, last: int) -> Tensor:
    with safe_open(info.file, framework="pt") as file:
        return file.get_slice(info.name)[first:last]
