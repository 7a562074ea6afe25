"""A model's tensors wherever they lie, read one at a time, and written as safetensors shards."""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from lit_talr.checkpoint.rounding import Rounding
from lit_talr.utils.files import read_json, write_json

PATTERN = "model{suffix}.safetensors"
INDEX = "model.safetensors.index.json"


class Weights(NamedTuple):
    """Tensors under the names that they have in the model."""

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype  # the widest of them
    read: Callable[[str], Tensor]  # whole; of a sharded model collective


def widest(dtypes: Iterable[torch.dtype], least: torch.dtype | None = None) -> torch.dtype:
    """The floating dtype that holds all of them, and ``least``."""
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    return reduce(torch.promote_types, floating, least or floating[0])


def merged_weights(weights: Weights, scaling: float) -> Weights:
    """Those of the same model without adapters: ``W + scaling * B A``, tensor by tensor in float32 (float64 for a float64 model).

    Args:
        weights: With adapters, as PEFT names them.
        scaling: alpha / r.
    """
    shapes = {name.replace(".base_layer.", "."): shape for name, shape in weights.shapes.items() if ".lora_" not in name}

    def read(name: str) -> Tensor:
        layer, _, kind = name.rpartition(".")
        base = f"{layer}.base_layer.{kind}"
        value = weights.read(base if base in weights.shapes else name)
        if value.is_floating_point():
            value = value.to(torch.promote_types(value.dtype, torch.float32))
        if base in weights.shapes and kind == "weight":
            first, second = (weights.read(f"{layer}.lora_{part}.default.weight") for part in "AB")
            value = value + scaling * (second @ first)
        return value

    return Weights(shapes, widest([weights.dtype], torch.float32), read)


def write_shards(
    folder: Path | None, names: Mapping[str, str], weights: Weights, dtype: torch.dtype, rounding: Rounding | None = None, max_shard_size: int | str = "5GB"
) -> int:
    """Write safetensors files into a model folder and name the dtype in its configuration; no more than one file is ever in memory. Collective.

    Args:
        folder: Has a config.json already; None on ranks that read with the others and write nothing.
        names: Of each tensor to be written, its name in the files and in the model.
        weights: Where they are read.
        dtype: What they are written in.
        rounding: Is shown every tensor as it was before that.
        max_shard_size: Of a file, in bytes, or such as ``5GB``.

    Returns:
        The number of files.
    """
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(weights.shapes[own], dtype=dtype, device="meta") for name, own in names.items()},
        filename_pattern=PATTERN,
        max_shard_size=max_shard_size,
    )
    files = [(file, name) for file, tensors in plan.filename_to_tensors.items() for name in tensors]
    shard: dict[str, Tensor] = {}
    for number, (file, name) in enumerate(track(files, "Writing weights", transient=True, console=Console(stderr=True), disable=folder is None)):
        value = weights.read(names[name])
        if folder is None:
            continue
        if rounding is not None:
            rounding.add(name, value.cpu())
        # A copy, since safetensors refuses parts of a larger tensor, and since one that is mapped from a file has no memory of its own.
        shard[name] = torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype).copy_(value)
        if number + 1 == len(files) or files[number + 1][0] != file:
            save_file(shard, folder / file, metadata={"format": "pt"})
            shard = {}
    if folder is not None:
        if plan.is_sharded:
            write_json(folder / INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
        state_dtype(folder / "config.json", dtype)
    return len(plan.filename_to_tensors)


def state_dtype(path: Path, dtype: torch.dtype) -> None:
    """Name the dtype of the weights in config.json, where transformers puts that of the live model; ``from_pretrained`` loads in it."""
    config = read_json(path)
    for part in (config, *(value for value in config.values() if isinstance(value, dict) and "dtype" in value)):
        part["dtype"] = str(dtype).removeprefix("torch.")
    write_json(path, config)
