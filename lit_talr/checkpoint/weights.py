"""Reads a model's tensors one at a time, from wherever they are, and writes them as safetensors files."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import PeftConfig
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lit_talr.checkpoint.rounding import Rounding
from lit_talr.modeling.adapting import merged_weight
from lit_talr.utils.files import read_json, write_json
from lit_talr.utils.progress import track

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


def merged_weights(weights: Weights, config: PeftConfig) -> Weights:
    """The weights of the model without adapters, which are merged in, tensor by tensor in float32 (float64 for a float64 model).

    Args:
        weights: With adapters, as PEFT names them.
        config: Of the adapters.
    """
    parts: dict[str, list[str]] = {name.removesuffix(".base_layer.weight"): [] for name in weights.shapes if name.endswith(".base_layer.weight")}
    for name in weights.shapes:
        if layer := next((above for above in parents(name) if above in parts), None):
            parts[layer].append(name)
    own = {name for layer, names in parts.items() for name in names if not name.startswith(f"{layer}.base_layer.")}
    shapes = {name.replace(".base_layer.", "."): shape for name, shape in weights.shapes.items() if name not in own}

    def read(name: str) -> Tensor:
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in parts:
            return merged_weight(config, {part.removeprefix(f"{layer}."): weights.read(part) for part in parts[layer]})
        base = f"{layer}.base_layer.{kind}"
        value = weights.read(base if base in weights.shapes else name)
        return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value

    return Weights(shapes, widest([weights.dtype], torch.float32), read)


def over_base(adapters: Weights, base: Weights) -> Weights:
    """Joins the tensors of adapters with those of the model that they are for, named as in the adapted model."""
    layers = {layer for name in adapters.shapes if (layer := next((above for above in parents(name) if f"{above}.weight" in base.shapes), None))}
    names = {f"{layer}.base_layer.{kind}" if layer in layers else name: name for name in base.shapes for layer, _, kind in [name.rpartition(".")]}
    shapes = {**{name: base.shapes[own] for name, own in names.items()}, **adapters.shapes}
    return Weights(shapes, widest([adapters.dtype, base.dtype]), lambda name: base.read(names[name]) if name in names else adapters.read(name))


def parents(name: str) -> Iterator[str]:
    """The modules above a tensor, the nearest first: ``a.b`` and ``a`` for ``a.b.c``."""
    while name := name.rpartition(".")[0]:
        yield name


def write_shards(
    folder: Path | None, names: Mapping[str, str], weights: Weights, dtype: torch.dtype, rounding: Rounding | None = None, max_shard_size: int | str = "5GB"
) -> int:
    """Writes safetensors files into a model folder and names the dtype in its configuration; one file at a time is in memory. Collective.

    Args:
        folder: Has a config.json already; None on ranks that read with the others and write nothing.
        names: From each tensor's name in the files to its name in the model.
        weights: Where the tensors are read.
        dtype: The dtype of the files.
        rounding: Compares every tensor before it is cast.
        max_shard_size: The largest size of a file, in bytes, or such as ``5GB``.

    Returns:
        The number of files.
    """
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(weights.shapes[own], dtype=dtype, device="meta") for name, own in names.items()},
        filename_pattern=PATTERN,
        max_shard_size=max_shard_size,
    )

    def read(name: str) -> Tensor:
        value = weights.read(names[name])
        if folder is None:
            return value
        if rounding is not None:
            rounding.add(name, value.cpu())
        # A copy, since safetensors refuses views, and since a tensor that is mapped from a file has no memory of its own.
        return torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype).copy_(value)

    write_files(folder, plan.filename_to_tensors, read, "Writing weights", plan.metadata["total_size"])
    if folder is not None:
        set_dtype(folder / "config.json", dtype)
    return len(plan.filename_to_tensors)


def write_files(folder: Path | None, files: Mapping[str, Sequence[str]], read: Callable[[str], Tensor], action: str, total_size: int | None = None) -> None:
    """Writes tensors, each read into memory of its own, file by file, with an index where there are several; without a folder only reads them."""
    bar = track(list(chain(*files.values())), action, show=folder is not None, console=Console(stderr=True))
    num_bytes = 0
    for file, names in files.items():
        shard = {}
        for name, _ in zip(names, bar, strict=False):
            tensor = read(name)
            if folder is not None:
                shard[name] = tensor
        if folder is not None:
            write_file(shard, folder / file)
        num_bytes += sum(tensor.nbytes for tensor in shard.values())
    list(bar)  # ends it
    if folder is not None and len(files) > 1:
        weight_map = {name: file for file, names in files.items() for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": num_bytes if total_size is None else total_size}, "weight_map": weight_map})


def write_file(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file.

    Raises:
        OSError: With its path, which safetensors leaves out.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def set_dtype(path: Path, dtype: torch.dtype) -> None:
    """Names the dtype of the files in config.json, where transformers puts that of the live model; ``from_pretrained`` loads in it."""
    config = read_json(path)
    for part in (config, *(value for value in config.values() if isinstance(value, dict) and "dtype" in value)):
        part["dtype"] = str(dtype).removeprefix("torch.")
    write_json(path, config)
