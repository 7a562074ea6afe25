"""Writes checkpoints whole or not at all: next to their final path first, then moved there."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_talr.checkpoint.seal import save_sealed
from lit_talr.utils.collectives import gather_lists
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import synchronise
from lit_talr.utils.locks import UNSUPPORTED, Lock
from lit_talr.utils.manifest import file_names, sum_file, write_manifest
from lit_talr.utils.waiting import waiting_for_ranks

WRITER = re.compile(r"(?:zero_pp_rank|^_)_(\d+)_")
"""The rank in the names of DeepSpeed's and FSDP2's files."""


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint of one file to its path, sealed; Lightning's own builds it in memory and sends it through TMPDIR."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_sealed(checkpoint, Path(path))


def save_whole(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Writes a checkpoint of any strategy to the disk, with checksums, and then moves it to its path. Collective.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
    """
    temporary = path.with_name(f".{path.name}.part")
    if isinstance(trainer.strategy.checkpoint_io, TorchCheckpointIO):
        trainer.strategy.checkpoint_io = DirectIO()
    if trainer.is_global_zero:
        remove(temporary)
        path.parent.mkdir(parents=True, exist_ok=True)
    with waiting_for_ranks("one makes room for a checkpoint"):
        trainer.strategy.barrier()
    try:
        trainer.save_checkpoint(temporary, weights_only)
        names = [name for name in file_names(temporary) if writer_of(name) == trainer.global_rank]  # none where the checkpoint is one file
        own_files = [(name, sum_file(temporary / name)) for name in names]
        with waiting_for_ranks(f"they write {path}"):
            files = dict(gather_lists(own_files))
        if trainer.is_global_zero:
            move_into_place(temporary, path, files)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk
        if trainer.is_global_zero:
            remove(temporary)
        raise OSError(
            f"{path} could not be written ({first_line(error)}); the earlier checkpoints are whole: make room, and continue with `--ckpt_path last`."
        ) from error
    with waiting_for_ranks(f"one moves {path} into its place"):
        trainer.strategy.barrier()


def writer_of(name: str) -> int:
    """The rank that wrote a file of a folder, which therefore reads it fastest; zero for files without a rank in their name."""
    number = WRITER.search(Path(name).name)
    return int(number[1]) if number else 0


def move_into_place(temporary: Path, path: Path, files: Mapping[str, dict[str, Any]]) -> None:
    """Replaces a checkpoint such that, whenever the process is killed, ``last`` finds the old or the new one.

    Args:
        temporary: The new checkpoint.
        path: Its final path.
        files: The manifest's entries for the files of a folder.
    """
    if temporary.is_dir():
        write_manifest(temporary, files)
    synchronise(temporary)
    old = path.with_name(f"{path.stem}-replaced.ckpt")
    if path.is_dir():
        os.replace(path, old)
    os.replace(temporary, path)
    synchronise(path.parent)
    remove(old)


def remove(path: Path) -> bool:
    """Deletes a file or folder, unless another command reads it as a checkpoint; whether it is gone."""
    lock = None
    try:
        lock = Lock(path) if path.exists() else None
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if lock is not None:
        lock.close()
    return True


def remove_parts(folder: Path) -> None:
    """Deletes partial checkpoints, left by runs that were killed while they wrote one."""
    for path in folder.glob(".*.part"):
        remove(path)
