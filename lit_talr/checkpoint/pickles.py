"""Reads the pickles in a checkpoint without running the code that they may name."""

import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from lit_talr.checkpoint.find import kind
from lit_talr.modeling.strategies import META

DEEPSPEED = {
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}
"""The classes in DeepSpeed's files, next to tensors and plain values."""
METADATA = {
    "torch": ("Size", "strided"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex"),
        *("StorageMeta", "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    "collections": ("OrderedDict",),
    "pathlib": ("Path", "PosixPath"),
}
"""The classes in FSDP2's ``.metadata``, by module."""

LIGHTNING = "pytorch-lightning_version"
"""Key of Lightning's version in a checkpoint, without which it loads none."""


class InertUnpickler(pickle.Unpickler):
    """Builds the classes of a checkpoint's metadata, which only hold values, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if name in METADATA.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its .metadata names {module}.{name}, which could run code")


def read_metadata(path: Path) -> Any:
    """The metadata of an FSDP2 folder.

    Raises:
        pickle.UnpicklingError: If it could run code.
    """
    with (path / ".metadata").open("rb") as file:
        return InertUnpickler(file).load()


class Inert:
    """Stands in for DeepSpeed's classes, whose objects are not needed."""

    def __init__(self, *_: Any) -> None: ...


def load_plain(path: Path) -> dict[str, Any]:
    """A file of tensors and plain values, memory-mapped.

    Raises:
        pickle.UnpicklingError: If it holds anything else; torch's own error would advise to load it all the same.
    """
    try:
        if foreign := get_unsafe_globals_in_checkpoint(path):
            raise pickle.UnpicklingError(f"{path.name} names {min(foreign)}, which could run code")
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return content
    except (pickle.UnpicklingError, ValueError) as error:
        reason = str(error) if "could run code" in str(error) else f"{path.name} holds more than tensors and plain values"
        raise pickle.UnpicklingError(reason) from error


def load_inert(path: Path) -> dict[str, Any]:
    """A file of DeepSpeed, memory-mapped; DeepSpeed's classes are never called, and any others but torch's are refused."""
    inert: list[Any] = [(Inert, name) for name in get_unsafe_globals_in_checkpoint(path) if name.startswith("deepspeed.")]
    with safe_globals(inert):
        return load_plain(path)


def refuse_code(path: Path) -> None:
    """Refuses a checkpoint that could run code, and a file that is none, before Lightning, DeepSpeed or torch's distributed checkpoints read it.

    Raises:
        ValueError: Naming the class that is not theirs, or what the file lacks.
    """
    try:
        if path.is_file():
            if not (isinstance(content := load_plain(path), dict) and {"state_dict", LIGHTNING} <= content.keys()):
                raise ValueError("it is no checkpoint of Lightning (it lacks `state_dict` or its version)")
            return
        pickles = fsdp2_pickles(path) if kind(path) == "FSDP2" else deepspeed_pickles(path)
        files = {name: file for file, content in pickles for name in get_unsafe_globals_in_checkpoint(content)}
    except (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"`ckpt_path`: {path} is not loaded: {error}; give a checkpoint that `lit-talr fit` wrote.") from error
    if unknown := sorted(files.keys() - DEEPSPEED):
        raise ValueError(f"`ckpt_path`: {files[unknown[0]]} names {unknown[0]}, which could run code; give a checkpoint that `lit-talr fit` wrote.")


def deepspeed_pickles(path: Path) -> Iterator[tuple[Path, Path]]:
    """The files that DeepSpeed reads: those of the folder that `latest` names, which could lie outside."""
    if (folder := (path / "latest").read_text(encoding="utf-8").strip()) != "checkpoint":
        raise pickle.UnpicklingError(f"its `latest` names {folder!r}, not its own folder `checkpoint`")
    for file in path.glob("checkpoint/*.pt"):
        yield file, file


def fsdp2_pickles(path: Path) -> Iterator[tuple[Path, Path | BytesIO]]:
    """The pickles in an FSDP2 folder: its metadata, and each entry that is no tensor, such as an optimizer's options, which torch unpickles without care."""
    metadata = read_metadata(path)
    if (path / META).is_file():
        yield path / META, path / META
    others = [entry for index, entry in metadata.storage_data.items() if not isinstance(metadata.state_dict_metadata.get(index.fqn), TensorStorageMetadata)]
    for entry in others:
        if entry.transform_descriptors:
            raise pickle.UnpicklingError(f"{entry.relative_path} is compressed, which `lit-talr fit` never does")
        with (path / entry.relative_path).open("rb") as file:
            file.seek(entry.offset)
            yield path / entry.relative_path, BytesIO(file.read(entry.length))
