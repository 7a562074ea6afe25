"""Writes checkpoints whole or not at all: next to their final path first, then moved there."""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint import CheckpointException

from lit_talr.checkpoint.seal import save_sealed
from lit_talr.utils.collectives import gather_lists
from lit_talr.utils.errors import CONTINUE, explain_lost_rank, first_line
from lit_talr.utils.files import remove, synchronise
from lit_talr.utils.manifest import file_names, sum_file, write_manifest
from lit_talr.utils.waiting import on_rank_zero, waiting_for_ranks

WRITER = re.compile(r"(?:zero_pp_rank|^_)_(\d+)_")
"""The rank in the names of DeepSpeed's and FSDP2's files."""


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint of one file to its path, sealed; Lightning's own builds it in memory and sends it through TMPDIR.

    An error waits for ``check``, since the other ranks wait for this one.
    """

    error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            save_sealed(checkpoint, Path(path))
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk
            self.error = error

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def save_whole(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Writes a checkpoint of any strategy to the disk, with checksums, and then moves it to its path. Collective.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        on_rank_zero(trainer, partial(make_room, temporary), "makes room for a checkpoint")
        save(trainer, temporary, weights_only)
        names = [name for name in file_names(temporary) if writer_of(name) == trainer.global_rank]  # none where the checkpoint is one file
        own_files = [(name, sum_file(temporary / name)) for name in names]
        with waiting_for_ranks(f"the other ranks, which write {path}"):
            files = dict(gather_lists(own_files))
        on_rank_zero(trainer, partial(move_into_place, temporary, path, files), f"moves {path} into its place")
    except (OSError, RuntimeError, CheckpointException) as error:
        if trainer.is_global_zero:
            remove(temporary)
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        if lost := explain_lost_rank(str(cause)):
            raise ConnectionError(lost) from error
        if isinstance(cause, FileNotFoundError):
            raise OSError(f"{path} could not be written, since its folder has been removed or renamed meanwhile; {CONTINUE}, if one is left.") from error
        raise OSError(
            f"{path} could not be written ({first_line(cause)}); the earlier checkpoints are whole: make room, and continue with `--ckpt_path auto`."
        ) from error


def make_room(temporary: Path) -> None:
    """Removes what a killed run left of a checkpoint.

    Raises:
        FileNotFoundError: If its folder is gone; a new one would lack all else that belongs to the run.
    """
    remove(temporary)
    temporary.parent.stat()


def save(trainer: Trainer, path: Path, weights_only: bool) -> None:
    """Writes a checkpoint, one file of it directly. Collective."""
    usual, direct = trainer.strategy.checkpoint_io, DirectIO()
    if isinstance(usual, TorchCheckpointIO):
        trainer.strategy.checkpoint_io = direct
    try:
        trainer.save_checkpoint(path, weights_only)
    finally:
        trainer.strategy.checkpoint_io = usual
    on_rank_zero(trainer, direct.check, f"writes {path}")


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


def remove_parts(folder: Path) -> None:
    """Deletes partial checkpoints, left by runs that were killed while they wrote one."""
    for path in folder.glob(".*.part"):
        remove(path)
