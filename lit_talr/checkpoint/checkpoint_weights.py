"""The model's weights in a checkpoint of any strategy, read one tensor at a time and without running what a pickle may hold."""

import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from lit_talr.checkpoint.weights import Weights, widest
from lit_talr.checkpoint.whole import kind, read_metadata

PREFIX = "backbone.model."
"""Of the model in the module that Lightning trains."""


def checkpoint_weights(path: Path) -> Weights:
    """Of a file (one process, DDP), or a folder of DeepSpeed (its fp32 masters) or FSDP2.

    Raises:
        ValueError: For what is no such checkpoint.
    """
    try:
        read = {"one process or DDP": file_weights, "FSDP2": fsdp2_weights}.get(kind(path), deepspeed_weights)
        return read(path)
    except (pickle.UnpicklingError, RuntimeError, KeyError, AttributeError, IndexError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a checkpoint of lit-talr fit ({reason}); give a run's folder, or a checkpoint of its `checkpoints`.") from error


def file_weights(path: Path) -> Weights:
    return of_tensors(own(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]))


def own(state: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to the model, under its own names."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def of_tensors(state: Mapping[str, Tensor]) -> Weights:
    return Weights({name: tuple(value.shape) for name, value in state.items()}, widest(value.dtype for value in state.values()), state.__getitem__)


class Inert:
    """Stands for a class whose objects lie in a file beside the weights and are not needed."""

    def __init__(self, *_: Any) -> None: ...


def load_inert(path: Path) -> dict[str, Any]:
    """A file of DeepSpeed, mapped; its own classes are never called, and any other than torch's are refused."""
    inert: list[Any] = [(Inert, name) for name in get_unsafe_globals_in_checkpoint(path) if name.startswith("deepspeed.")]
    with safe_globals(inert):
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def deepspeed_weights(path: Path) -> Weights:
    """The fp32 masters of ZeRO-1, 2 and 3, as ``deepspeed.utils.zero_to_fp32`` finds them, which would unpickle anything and hold the whole model."""
    by_rank: Callable[[Path], int] = lambda file: int(re.findall(r"zero_pp_rank_(\d+)|$", file.name)[0] or 0)  # noqa: E731
    optimizers = [load_inert(file)["optimizer_state_dict"] for file in sorted(path.glob("checkpoint/*_optim_states.pt"), key=by_rank)]
    states = [load_inert(file) for file in sorted(path.glob("checkpoint/*_model_states.pt"), key=by_rank)]
    shapes = {name: tuple(shape) for group in states[0]["param_shapes"] for name, shape in group.items()}
    stage3 = "fp32_flat_groups" in optimizers[0]
    masters = sharded_masters(optimizers, shapes) if stage3 else split_masters(optimizers, states[0]["param_shapes"])
    # What is not trained: rank by rank in stage 3, else whole among all of the model's (of which stage 1 does not list it).
    frozen_shapes = {name: tuple(shape) for name, shape in (states[0]["frozen_param_shapes"] or {}).items()} if stage3 else {}
    module = {name: value for name, value in states[0]["module"].items() if isinstance(value, Tensor)}  # a loss may keep more than tensors
    whole = {name: value for name, value in module.items() if not stage3 or name in states[0]["buffer_names"]}

    def read(name: str) -> Tensor:
        name = PREFIX + name
        if name not in shapes and name in whole:
            return whole[name]
        shape = shapes[name] if name in shapes else frozen_shapes[name]
        pieces = masters[name]() if name in shapes else [state["frozen_param_fragments"][name].reshape(-1) for state in states]
        return torch.cat(pieces)[: prod(shape)].view(shape)

    whole_shapes = {name: tuple(value.shape) for name, value in whole.items()}
    return Weights(own({**whole_shapes, **frozen_shapes, **shapes}), torch.float32, read)


def split_masters(optimizers: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, Callable[[], list[Tensor]]]:
    """Stages 1 and 2: the weights of a group lie one after the other in one vector, which is cut into as many parts as there are ranks."""
    found: dict[str, Callable[[], list[Tensor]]] = {}
    paddings = optimizers[0].get("param_alignment_paddings")
    for number, group in enumerate(groups):
        parts = [optimizer["single_partition_of_fp32_groups"][number] for optimizer in optimizers]
        start = 0
        for place, (name, shape) in enumerate(group.items()):
            length = prod(shape)
            found[name] = lambda parts=parts, start=start, length=length: cut(parts, start, length)  # type: ignore[misc]
            start += length + (paddings[number][place] if paddings else 0)
    return found


def sharded_masters(optimizers: list[dict[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Callable[[], list[Tensor]]]:
    """Stage 3: every weight is cut into as many equal parts as there are ranks, and a rank's parts lie one after the other."""
    found: dict[str, Callable[[], list[Tensor]]] = {}
    ranks = [optimizer["fp32_flat_groups"] for optimizer in optimizers]
    start = 0
    for name, shape in shapes.items():
        length = -(-prod(shape) // len(ranks))
        found[name] = lambda start=start, length=length: [piece for parts in ranks for piece in cut(parts, start, length)]  # type: ignore[misc]
        start += length
    return found


def cut(parts: Iterable[Tensor], start: int, length: int) -> list[Tensor]:
    """The pieces of ``parts``, one after the other, between ``start`` and ``start + length``."""
    pieces = []
    for part in parts:
        first, last = max(start, 0), min(start + length, len(part))
        if first < last:
            pieces.append(part[first:last])
        start -= len(part)
    return pieces


class InertReader(dcp.FileSystemReader):
    """Torch's reader, whose metadata are unpickled without running code; the tensors it reads so by itself."""

    def read_metadata(self, *_: Any, rank: int | None = None) -> Metadata:  # type: ignore[override]
        metadata: Metadata = read_metadata(Path(self.path))
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def fsdp2_weights(path: Path) -> Weights:
    prefix = "state_dict."
    listed = InertReader(path).read_metadata().state_dict_metadata
    found = {name.removeprefix(prefix): entry for name, entry in listed.items() if isinstance(entry, TensorStorageMetadata)}
    entries: dict[str, TensorStorageMetadata] = own(found)

    def read(name: str) -> Tensor:
        target = torch.empty(entries[name].size, dtype=entries[name].properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")  # as it is told to
            dcp.load({f"{prefix}{PREFIX}{name}": target}, storage_reader=InertReader(path), no_dist=True)
        return target

    return Weights({name: tuple(entry.size) for name, entry in entries.items()}, widest(entry.properties.dtype for entry in entries.values()), read)
