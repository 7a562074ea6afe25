"""Reads the safetensors files of a model folder, tensor by tensor."""

import hashlib
import json
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_talr.utils.checksums import find_fault
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import looks_like_path, shipped, why_broken
from lit_talr.utils.manifest import MANIFEST, why_changed
from lit_talr.utils.waiting import fetching

PATTERNS = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md"]
"""Files fetched of a hub model: weights, configuration, tokenizer and card."""


class TensorInfo(NamedTuple):
    """A tensor in a file."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F32, BF16


def model_folder(name: str, revision: str | None = None) -> Path:
    """The local folder of a model: the name itself, a folder of this package, or the cache of the hub.

    Raises:
        ValueError: For a folder without config.json, with an adapter, or other than its manifest says, and a hub model that cannot be reached.
    """
    folder = Path(shipped(name))
    if not folder.exists() and not looks_like_path(name):
        try:
            with fetching(name):
                folder = Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} could not be found ({first_line(error)}); give a model folder or a hub name that is reachable.") from error
    refuse_adapter(folder)
    check_files(folder)
    if not (folder / "config.json").is_file():
        models = [place for place in (folder / "export", folder.parent, folder.parent.parent / "export") if (place / "config.json").is_file()]
        hint = f"did you mean {models[0]}?" if models else "give a Hugging Face model folder or a hub name."
        raise ValueError(f"{name} is not a folder with a config.json; {hint}")
    return folder


def refuse_adapter(folder: Path) -> None:
    """Refuses a folder with an adapter, which transformers would silently add to the weights next to it.

    Raises:
        ValueError: With the way out.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds an adapter (adapter_config.json); give a model with its update merged in, such as the export of its run.")


def check_files(folder: Path) -> None:
    """Refuses a folder whose files are not those of its manifest, where it has one: exports and merges do, models of the hub do not.

    Raises:
        ValueError: Naming the file.
    """
    if (folder / MANIFEST).is_file() and (fault := find_fault(folder, partial(why_changed, listed=PATTERNS[0]))):
        raise ValueError(f"{folder} is not what was written: it {fault}; copy or write it again, or delete its {MANIFEST} if the change is yours.")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: ``model.safetensors``, or else those that the index names.

    Raises:
        ValueError: If a file is missing.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors and no index of such files; convert it with `save_pretrained`.")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is not an index of safetensors files; fetch or write the folder again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{index} names {name}, which is not there; fetch or write the folder again.")
    return [folder / name for name in names]


BASE_HASH = "model.pretrained (hash of its weights)"
"""The option under which checkpoints have the first digits of the base model's ``fingerprint``."""


def fingerprint(folder: Path) -> str:
    """Hashes a model's configuration and weights."""
    digest = hashlib.sha256()
    for path in (folder / "config.json", *weight_files(folder)):
        status = path.stat()
        digest.update(f"{path.name} {file_hash(path.resolve(), status.st_size, status.st_mtime_ns)}".encode())
    return digest.hexdigest()


@cache
def file_hash(path: Path, size: int, modified: int) -> str:
    """Hashes a file once in a process, as long as its size and its time of change stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a model by its name, from the headers of its files.

    Raises:
        ValueError: For a file that is cut short, or no safetensors file.
    """
    infos: dict[str, TensorInfo] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}
                infos |= {name: TensorInfo(path, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({why_broken(path) or error}); fetch or write it again.") from error
    return infos


def read_tensor(info: TensorInfo) -> Tensor:
    """Reads one tensor; its file is opened for it alone, so that only this tensor is mapped, and only while it is used."""
    with safe_open(info.file, framework="pt") as file:
        return file.get_tensor(info.name)
