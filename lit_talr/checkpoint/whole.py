"""Checkpoints that are whole or not there: written beside their place and moved into it, listed in a manifest, found again."""

import fcntl
import hashlib
import logging
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch.serialization import get_unsafe_globals_in_checkpoint

from lit_talr.utils.files import read_json, write_json

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
EDGE = 2**16
"""Bytes at either end of a file that are hashed: a torch file ends with the check sums of all that it holds."""

DEEPSPEED = {
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}
"""What its files hold beside tensors and plain values."""
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
"""What FSDP2's ``.metadata`` is made of."""


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint of one file where it is told to; Lightning's own builds it in memory and sends it through TMPDIR."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, path)


def save_whole(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Write a checkpoint of any strategy: beside its place, to the disk, with a manifest where it is a folder, and then into its place. Collective.

    Raises:
        OSError: If it cannot be written; what was there before is as it was.
    """
    temporary = path.with_name(f".{path.name}.part")
    if isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
        trainer.strategy.checkpoint_io = DirectIO()
    if trainer.is_global_zero:
        remove(temporary)
        path.parent.mkdir(parents=True, exist_ok=True)
    trainer.strategy.barrier()
    try:
        trainer.save_checkpoint(temporary, weights_only)
        if trainer.is_global_zero:
            if temporary.is_dir():
                write_json(temporary / MANIFEST, fingerprints(temporary))
            synchronise(temporary)
            before = path.with_name(f"{path.stem}-replaced.ckpt")  # so that whenever it is killed, `last` finds one of the two
            if path.is_dir():
                os.replace(path, before)
            os.replace(temporary, path)
            synchronise(path.parent)
            remove(before)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk, in many words
        if trainer.is_global_zero:
            remove(temporary)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"{path} could not be written ({reason}); the checkpoints before it are whole: make room, and continue with `--ckpt_path last`."
        ) from error
    trainer.strategy.barrier()


def synchronise(path: Path) -> None:
    """Wait until a file or all of a folder is on the disk."""
    for part in (path, *(path.rglob("*") if path.is_dir() else ())):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """A file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """What runs that were killed while they wrote a checkpoint have left."""
    for path in folder.glob(".*.part"):
        remove(path)


def fingerprints(folder: Path) -> dict[str, Any]:
    """Of each file in a folder its size and the hash of its ends."""
    return {path.relative_to(folder).as_posix(): fingerprint(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST}


def fingerprint(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        file.seek(max(0, size - EDGE))
        digest.update(file.read(EDGE))
    return {"bytes": size, "sha256 of both ends": digest.hexdigest()}


def why_not_whole(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    if path.is_file():
        return None if zipfile.is_zipfile(path) else "is cut short, or another file"  # torch.save writes the directory of the archive last
    if not (path / MANIFEST).is_file():
        return f"has no {MANIFEST}, which is written when all else is there"
    try:
        listed = read_json(path / MANIFEST)
    except ValueError:
        return f"has a {MANIFEST} that is cut short"
    for name, wanted in listed.items():
        if not (path / name).is_file():
            return f"lacks {name}"
        if fingerprint(path / name) != wanted:
            return f"has another {name} than was written"
    return None


def kind(path: Path) -> str:
    """Which strategies a checkpoint is of."""
    if path.is_file():
        return "one process or DDP"
    if not (path / "latest").is_file():
        return "FSDP2"
    return "ZeRO-3" if any(path.glob("checkpoint/zero_pp_rank_*_model_states.pt")) else "ZeRO-1 or ZeRO-2"


def optimizer_files(path: Path) -> list[Path]:
    """Of a checkpoint of DeepSpeed: one for each rank that wrote it, ``bf16_...`` where weights were bfloat16."""
    return list(path.glob("checkpoint/*_optim_states.pt"))


class InertUnpickler(pickle.Unpickler):
    """Knows the classes of a checkpoint's metadata, which only hold values."""

    def find_class(self, module: str, name: str) -> Any:
        if name in METADATA.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its .metadata names {module}.{name}, which could run code")


def read_metadata(path: Path) -> Any:
    """Of FSDP2's folder, without running code.

    Raises:
        pickle.UnpicklingError: If it could run any.
    """
    with (path / ".metadata").open("rb") as file:
        return InertUnpickler(file).load()


def refuse_code(path: Path) -> None:
    """DeepSpeed and torch's distributed checkpoints unpickle what they find in a folder; refuse what is not theirs, before they do.

    Raises:
        ValueError: For a checkpoint that could run code.
    """
    if path.is_file():  # which Lightning loads with ``weights_only``
        return
    try:
        if kind(path) == "FSDP2":
            read_metadata(path)
        named = {name: file for file in path.rglob("*.pt") for name in get_unsafe_globals_in_checkpoint(file)}
    except (pickle.UnpicklingError, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"`ckpt_path`: {path} is not loaded: {error}; give a checkpoint that `lit-talr fit` wrote.") from error
    if strange := sorted(named.keys() - DEEPSPEED):
        raise ValueError(f"`ckpt_path`: {named[strange[0]]} names {strange[0]}, which could run code; give a checkpoint that `lit-talr fit` wrote.")


def lock(run: Path) -> IO[str]:
    """Keep a run folder to this process, as long as what is returned lives; the system frees it whatever ends the process.

    Raises:
        ValueError: If another process has it.
    """
    run.mkdir(parents=True, exist_ok=True)
    handle = (run / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise ValueError(f"`run`: another run is writing into {run}; wait for its end, or name another folder.") from None
    return handle


def last_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run that is whole; one that is not is named in the log.

    Raises:
        ValueError: If there is none.
    """
    folder = run / "checkpoints"
    found = sorted(folder.glob("[!.]*.ckpt"), key=newest)
    problems: list[str] = []
    for path in reversed(found):
        problem = why_not_whole(path)
        if problem is None:
            if problems:
                rank_zero_only(logger.warning)(f"`ckpt_path: last`: {'; '.join(problems)}. Going on from the newest whole checkpoint, {path}.")
            return path
        problems.append(f"{path} {problem}")
    if found:
        raise ValueError(f"`ckpt_path: last`: of the {len(found)} checkpoint(s) in {folder} none is whole; start the run again in another folder.")
    raise ValueError(f"`ckpt_path: last`: {folder} holds no checkpoint; start the run without `ckpt_path`, or name its folder with `--run`.")


def step_of(path: Path) -> int | None:
    """The optimizer step that a checkpoint's name says."""
    step = re.search(r"step=(\d+)", path.name)
    return int(step[1]) if step else None


def newest(path: Path) -> tuple[int, bool, float]:
    """For sorting: by the step in the name, then what was written as the last, then by time."""
    step = step_of(path)
    return -1 if step is None else step, path.name.startswith("last"), path.stat().st_mtime


def check_checkpoint(path: Path) -> None:
    """Refuse what is not a whole checkpoint, before anything is built."""
    if not path.exists():
        raise ValueError(f"`ckpt_path`: {path} does not exist; give a checkpoint of the run's `checkpoints` folder, or `last`.")
    if problem := why_not_whole(path):
        raise ValueError(f"`ckpt_path`: {path} is not a whole checkpoint: it {problem}; give another one of the run's `checkpoints` folder, or `last`.")
