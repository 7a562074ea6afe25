"""Reads the model's weights from a checkpoint of any strategy, one tensor at a time, without running code from its pickles."""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from lit_talr.checkpoint.find import kind
from lit_talr.checkpoint.pickles import load_inert, load_plain, read_metadata
from lit_talr.checkpoint.weights import Weights, widest
from lit_talr.utils.errors import first_line
from lit_talr.utils.identity import WeightsIdentity

PREFIX = "backbone.model."
"""Begins the names of the model's tensors in the module that Lightning trains."""


def checkpoint_weights(path: Path) -> Weights:
    """The model's tensors in a file (one process, DDP), or a folder of DeepSpeed (its fp32 masters) or FSDP2.

    Raises:
        ValueError: If the path is no such checkpoint.
    """
    try:
        read = {"one process or DDP": file_weights, "FSDP2": fsdp2_weights}.get(kind(path), deepspeed_weights)
        return read(path)
    except (pickle.UnpicklingError, RuntimeError, KeyError, AttributeError, IndexError, EOFError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of lit-talr fit ({first_line(error)}); give a run's folder, or a checkpoint of its `checkpoints`."
        ) from error


def checkpoint_record(path: Path) -> dict[str, Any]:
    """A checkpoint with all that a run wrote into it; its tensors are mapped, not read."""
    if path.is_file():
        return load_plain(path)
    if (path / "meta.pt").is_file():  # FSDP2
        return load_plain(path / "meta.pt")
    return load_inert(min(path.glob("checkpoint/*_model_states.pt"), key=rank_of))


def checkpoint_identity(path: Path) -> WeightsIdentity:
    """The identity of a checkpoint's weights."""
    return WeightsIdentity(**checkpoint_record(path)["weights"])


def select_model(state: Mapping[str, Any]) -> dict[str, Any]:
    """The model's part of a state dict, under the model's own names."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def file_weights(path: Path) -> Weights:
    if not (state := select_model(load_plain(path)["state_dict"])):
        raise RuntimeError(f"no tensor in it begins with {PREFIX}")
    return Weights({name: tuple(value.shape) for name, value in state.items()}, widest(value.dtype for value in state.values()), state.__getitem__)


def deepspeed_weights(path: Path) -> Weights:
    """The fp32 masters of ZeRO-1, 2 and 3.

    They lie where ``deepspeed.utils.zero_to_fp32`` finds them, which would unpickle anything and hold the whole model in memory.
    """
    optimizers = [load_inert(file)["optimizer_state_dict"] for file in sorted(path.glob("checkpoint/*_optim_states.pt"), key=rank_of)]
    states = [load_inert(file) for file in sorted(path.glob("checkpoint/*_model_states.pt"), key=rank_of)]
    module = {name: value for name, value in states[0]["module"].items() if isinstance(value, Tensor)}  # a loss may store more than tensors
    shapes = {name: tuple(shape) for group in states[0]["param_shapes"] for name, shape in group.items()}
    if "fp32_flat_groups" in optimizers[0]:  # stage 3, which shards frozen weights too
        frozen = {name: tuple(shape) for name, shape in (states[0]["frozen_param_shapes"] or {}).items()}
        pieces = {name: [state["frozen_param_fragments"][name].reshape(-1) for state in states] for name in frozen}
        pieces |= sharded_masters(optimizers, shapes)
        shapes = {**frozen, **shapes}
        module = {name: value for name, value in module.items() if name in states[0]["buffer_names"]}
    else:
        pieces = split_masters(optimizers, states[0]["param_shapes"])

    def read(name: str) -> Tensor:
        name = PREFIX + name
        return torch.cat(pieces[name])[: prod(shapes[name])].view(shapes[name]) if name in pieces else module[name]

    return Weights(select_model({**{name: tuple(value.shape) for name, value in module.items()}, **shapes}), torch.float32, read)


def rank_of(file: Path) -> int:
    return int(re.findall(r"zero_pp_rank_(\d+)|$", file.name)[0] or 0)


def split_masters(optimizers: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, list[Tensor]]:
    """Stages 1 and 2: a group's weights lie one after the other in one vector, of which every rank has an equal part."""
    pieces: dict[str, list[Tensor]] = {}
    paddings = optimizers[0].get("param_alignment_paddings")
    for number, group in enumerate(groups):
        parts = [optimizer["single_partition_of_fp32_groups"][number] for optimizer in optimizers]
        start = 0
        for index, (name, shape) in enumerate(group.items()):
            pieces[name] = cut_pieces(parts, start, prod(shape))
            start += prod(shape) + (paddings[number][index] if paddings else 0)
    return pieces


def sharded_masters(optimizers: list[dict[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[Tensor]]:
    """Stage 3: every rank has an equal part of each weight, and its parts lie one after the other."""
    pieces: dict[str, list[Tensor]] = {}
    start = 0
    for name, shape in shapes.items():
        length = -(-prod(shape) // len(optimizers))
        pieces[name] = [piece for optimizer in optimizers for piece in cut_pieces(optimizer["fp32_flat_groups"], start, length)]
        start += length
    return pieces


def cut_pieces(parts: Iterable[Tensor], start: int, length: int) -> list[Tensor]:
    """Views of ``parts``, taken as one vector, between ``start`` and ``start + length``."""
    pieces = []
    for part in parts:
        first, last = max(start, 0), min(start + length, len(part))
        if first < last:
            pieces.append(part[first:last])
        start -= len(part)
    return pieces


class InertReader(dcp.FileSystemReader):
    """Torch's reader, except that the metadata are unpickled without running code; it reads tensors safely by itself."""

    def read_metadata(self, *_: Any, rank: int | None = None) -> Metadata:  # type: ignore[override]
        metadata: Metadata = read_metadata(Path(self.path))
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def fsdp2_weights(path: Path) -> Weights:
    prefix = "state_dict."
    stored = InertReader(path).read_metadata().state_dict_metadata
    entries = select_model({name.removeprefix(prefix): entry for name, entry in stored.items() if isinstance(entry, TensorStorageMetadata)})

    def read(name: str) -> Tensor:
        target = torch.empty(entries[name].size, dtype=entries[name].properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")  # which `no_dist` asks for
            dcp.load({f"{prefix}{PREFIX}{name}": target}, storage_reader=InertReader(path), no_dist=True)
        return target

    return Weights({name: tuple(entry.size) for name, entry in entries.items()}, widest(entry.properties.dtype for entry in entries.values()), read)
