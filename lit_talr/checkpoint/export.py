"""``lit-talr export``: a checkpoint of any strategy as a Hugging Face folder."""

import shlex
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

from lit_talr.checkpoint.checkpoint_weights import checkpoint_identity, checkpoint_weights
from lit_talr.checkpoint.find import hold_last, hold_whole
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import merged_weights, write_shards
from lit_talr.utils.files import new_folder, read_json, run_around, write_text
from lit_talr.utils.locks import Lock
from lit_talr.utils.manifest import MANIFEST, is_made, write_manifest
from lit_talr.utils.weight_files import check_files

SKELETON = "skeleton"
"""Folder of a run with all files of a model but its weights."""
RECORD = "export.json"
"""File in it with the base model, the LoRA, and the names of tensors in files and in the model."""


def export(ckpt: Path, out: Path, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
    """Write the weights of a checkpoint, of any strategy, as a Hugging Face folder; on one machine, without a GPU, with one file of it in memory.

    With LoRA the update is merged in: W + alpha / r * B A. For a dtype of half precision it also prints how much of the update is lost to rounding.

    Args:
        ckpt: A run's folder, which means its newest whole checkpoint, or one checkpoint from its ``checkpoints``.
        out: A new folder.
        dtype: Of the weights; the fp32 masters by default. At a learning rate of 1e-6, rounding to bfloat16 can lose a good part of the update.

    Raises:
        ValueError: If the path is no whole checkpoint of a run, the run has no ``skeleton`` folder, or the new folder holds something else already.
    """
    out = out.expanduser()
    is_made(out)
    path, lock = find_checkpoint(ckpt.expanduser())
    with lock:
        write_export(path, out, dtype)


def write_export(path: Path, out: Path, dtype: str | None) -> None:
    """Writes a whole checkpoint as a model folder."""
    skeleton = path.resolve().parents[1] / SKELETON
    weights = checkpoint_weights(path)
    record = read_record(skeleton)
    if record["lora"]:
        weights = merged_weights(weights, record["lora"]["alpha"] / record["lora"]["r"])
    if missing := [name for name in record["names"].values() if name not in weights.shapes]:
        raise ValueError(f"{path} has no tensor `{missing[0]}`, which {skeleton / RECORD} names; give a checkpoint of the run that wrote both.")
    target: torch.dtype = getattr(torch, dtype) if dtype else weights.dtype
    name = str(target).removeprefix("torch.")
    about, command = checkpoint_identity(path).about(), shlex.join(["lit-talr", "export", "--ckpt", str(path), "--out", str(out), "--dtype", name])
    if is_made(out, about, command):
        print(f"{out}: is there already, from the same checkpoint")
        return
    rounding = Rounding.of(target, record["pretrained"], record["revision"])
    with new_folder(out) as folder:
        copy_skeleton(skeleton, folder)
        num_files = write_shards(folder, record["names"], weights, target, rounding)
        add_command(folder / "README.md", command, rounding)
        write_manifest(folder, about=about)
    print(f"{out}: {path.name}, {len(record['names']):,} tensors in {num_files} file(s), {name}")
    if rounding is not None:
        print(rounding)


def find_checkpoint(path: Path) -> tuple[Path, Lock]:
    """The checkpoint that a path names, with a lock that keeps a ``fit`` that is running from deleting it.

    Raises:
        ValueError: If there is none, or it is not whole.
    """
    if (path / "checkpoints").is_dir():
        return hold_last(path)
    if (path / "config.json").is_file():
        run = run_around(path, "checkpoints", "`--ckpt {}`") or "the folder of the run that it was made of"
        raise ValueError(f"`ckpt`: {path} is a model folder already, no checkpoint; for another export, as in another dtype, give {run}.")
    return path, hold_whole(path, "ckpt", "give a run's folder, or a whole checkpoint from its `checkpoints`")


def read_record(skeleton: Path) -> dict[str, Any]:
    """The record that HFExport wrote for a run.

    Raises:
        ValueError: If there is none, or the folder is not what was written.
    """
    path = skeleton / RECORD
    if not path.is_file():
        raise ValueError(
            f"{path}, which HFExport writes as training starts, is not there; run `lit-talr fit` of this run with it and `--ckpt_path last`, "
            "or put the checkpoint back into the `checkpoints` of its run."
        )
    check_files(skeleton)
    return read_json(path)


def copy_skeleton(skeleton: Path, folder: Path) -> None:
    """Copies configuration, tokenizer and card."""
    shutil.copytree(skeleton, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD, MANIFEST))


def add_command(card: Path, command: str, rounding: Rounding | None) -> None:
    """Adds a section to a model card: the command, and how much rounding lost."""
    text = card.read_text(encoding="utf-8", errors="replace").rstrip() if card.is_file() else ""
    write_text(card, f"{text}\n\n## Export\n\n```\n{command}\n```\n{f'{chr(10)}{rounding}{chr(10)}' if rounding else ''}")
