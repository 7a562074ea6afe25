"""Writes checkpoints whole or not at all: next to their final path first, then moved there."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_talr.checkpoint.find import MANIFEST, fingerprints
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import synchronise, write_json


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint of one file to its path; Lightning's own builds it in memory and sends it through TMPDIR."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, path)


def save_whole(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Writes a checkpoint of any strategy to the disk, and then moves it to its path; a folder gets a manifest. Collective.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
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
            move_into_place(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk
        if trainer.is_global_zero:
            remove(temporary)
        raise OSError(
            f"{path} could not be written ({first_line(error)}); the earlier checkpoints are whole: make room, and continue with `--ckpt_path last`."
        ) from error
    trainer.strategy.barrier()


def move_into_place(temporary: Path, path: Path) -> None:
    """Replaces a checkpoint such that, whenever the process is killed, ``last`` finds the old or the new one."""
    if temporary.is_dir():
        write_json(temporary / MANIFEST, fingerprints(temporary))
    synchronise(temporary)
    old = path.with_name(f"{path.stem}-replaced.ckpt")
    if path.is_dir():
        os.replace(path, old)
    os.replace(temporary, path)
    synchronise(path.parent)
    remove(old)


def remove(path: Path) -> None:
    """Deletes a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Deletes partial checkpoints, left by runs that were killed while they wrote one."""
    for path in folder.glob(".*.part"):
        remove(path)
