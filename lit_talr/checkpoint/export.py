"""``lit-talr export``: a checkpoint of any strategy as a Hugging Face folder."""

import shlex
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

from lit_talr.checkpoint.checkpoint_weights import checkpoint_weights
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import merged_weights, write_shards
from lit_talr.checkpoint.whole import last_checkpoint, why_not_whole
from lit_talr.utils.files import new_folder, read_json, write_text

SKELETON = "skeleton"
"""Folder of a run with all of a model but its weights."""
RECORD = "export.json"
"""In it: what the model started from, its LoRA, and the names of its tensors in files and in the model."""


def export(ckpt: Path, out: Path, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
    """Write the weights of a checkpoint, of whichever strategy, as a Hugging Face folder; on one machine, without a GPU, one file of it in memory.

    With LoRA the update is merged in: W + alpha / r * B A. For a dtype of half precision it also says how much of the update is lost to rounding.

    Args:
        ckpt: A run's folder, which means its newest whole checkpoint, or one checkpoint out of its ``checkpoints``.
        out: A new folder.
        dtype: Of the weights; the fp32 masters by default. At a learning rate of 1e-6, rounding to bfloat16 can lose a good part of the update.

    Raises:
        ValueError: For what is no whole checkpoint of a run, a run without its ``skeleton`` folder, and a folder that is used already.
    """
    out = out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"`out`: {out} is there already; name a new folder.")
    path = find_checkpoint(ckpt.expanduser())
    skeleton = path.resolve().parents[1] / SKELETON
    record = read_record(skeleton)
    weights = checkpoint_weights(path)
    if record["lora"]:
        weights = merged_weights(weights, record["lora"]["alpha"] / record["lora"]["r"])
    if missing := [name for name in record["names"].values() if name not in weights.shapes]:
        raise ValueError(f"{path} has no tensor `{missing[0]}`, which {skeleton / RECORD} names; give a checkpoint of the run that wrote both.")
    target: torch.dtype = getattr(torch, dtype) if dtype else weights.dtype
    rounding = Rounding.of(target, record["pretrained"], record["revision"])
    name = str(target).removeprefix("torch.")
    with new_folder(out) as folder:
        copy_skeleton(skeleton, folder)
        num_files = write_shards(folder, record["names"], weights, target, rounding)
        command = shlex.join(["lit-talr", "export", "--ckpt", str(path), "--out", str(out), "--dtype", name])
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace").rstrip() if card.is_file() else ""
        write_text(card, f"{text}\n\n## Export\n\n```\n{command}\n```\n{f'{chr(10)}{rounding}{chr(10)}' if rounding else ''}")
    print(f"{out}: {path.name}, {len(record['names']):,} tensors in {num_files} file(s), {name}")
    if rounding is not None:
        print(rounding)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path names.

    Raises:
        ValueError: If there is none, or it is not whole.
    """
    if not path.exists():
        raise ValueError(f"`ckpt`: {path} does not exist; give a run's folder, or a checkpoint of its `checkpoints`.")
    if (path / "checkpoints").is_dir():
        return last_checkpoint(path)
    if problem := why_not_whole(path):
        raise ValueError(f"`ckpt`: {path} is not a whole checkpoint: it {problem}; give a run's folder, or another checkpoint of its `checkpoints`.")
    return path


def read_record(skeleton: Path) -> dict[str, Any]:
    """What HFExport has left of a run.

    Raises:
        ValueError: If it has not.
    """
    path = skeleton / RECORD
    if not path.is_file():
        raise ValueError(
            f"{path}, which HFExport writes as training starts, is not there; run `lit-talr fit` of this run with it and `--ckpt_path last`, "
            "or put the checkpoint back into the `checkpoints` of its run."
        )
    return read_json(path)


def copy_skeleton(skeleton: Path, folder: Path) -> None:
    """Configuration, tokenizer and card."""
    shutil.copytree(skeleton, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
