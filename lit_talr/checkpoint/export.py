"""``lit-talr export``: a checkpoint of any strategy as a Hugging Face folder."""

import shlex
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig

from lit_talr.checkpoint.checkpoint_weights import checkpoint_record, checkpoint_weights
from lit_talr.checkpoint.find import checkpoints, hold_last, hold_whole, step_of
from lit_talr.checkpoint.mean import bema_shares, decayed_shares, mean_identity, mean_weights
from lit_talr.checkpoint.rounding import Rounding
from lit_talr.checkpoint.weights import Weights, merged_weights, over_base, widest, write_shards
from lit_talr.modeling.loading import load_model
from lit_talr.utils.errors import check_in
from lit_talr.utils.files import new_folder, read_json, run_around, write_text
from lit_talr.utils.locks import Lock
from lit_talr.utils.manifest import MANIFEST, is_made, write_manifest
from lit_talr.utils.weight_files import BASE_HASH, check_files, fingerprint, model_folder

SKELETON = "skeleton"
"""Folder of a run with all files of a model but its weights."""
RECORD = "export.json"
"""File in it with the base model, the adapter, and the names of tensors in files and in the model."""


def export(ckpt: Path, out: Path, dtype: Literal["float32", "bfloat16", "float16"] | None = None, decay: float | Literal["bema"] | None = None) -> None:
    """Write the weights of a checkpoint, of any strategy, as a Hugging Face folder; on one machine, without a GPU, with one file of it in memory.

    An adapter is merged in, for which the base model is loaded into memory: a checkpoint has the adapter alone. For a dtype of half precision it also
    prints how much of the update is lost to rounding.
    With ``decay`` the exponential mean of all checkpoints of a run is written: m = theta_1, then m <- decay * m + (1 - decay) * theta_k, from the oldest to
    the newest. Keep many with ``WholeCheckpoint``'s ``every_n_train_steps`` and ``save_top_k: -1``; one after every step gives the usual mean (EMA).
    ``--decay bema`` is BEMA instead (arXiv:2508.00180), which starts at the base model theta_0 and adds a part of the update so that it does not lag behind.
    With b = (10 + t)^-.5 at the step t of each checkpoint and T the last one: m = theta_0, then m <- (1 - b) m + b theta_t, at last
    m + (10 + T)^-.2 (theta_T - theta_0). The base model is loaded into memory for it.

    Args:
        ckpt: A run's folder, which means its newest whole checkpoint, or one checkpoint from its ``checkpoints``.
        out: A new folder.
        dtype: Of the weights; the fp32 masters by default. At a learning rate of 1e-6, rounding to bfloat16 can lose a good part of the update.
        decay: In [0, 1), how much of the mean stays from one checkpoint of the run's folder to the next, or ``bema``; left out, nothing is averaged.

    Raises:
        ValueError: If the path is no whole checkpoint of a run, the run has no ``skeleton`` folder, or the new folder holds something else already; with
            ``decay`` out of range, for a path that is not a run's folder, or has fewer than two steps or a checkpoint that is not whole.
    """
    out = out.expanduser()
    is_made(out)
    if decay is None:
        path, lock = find_checkpoint(ckpt.expanduser())
        with lock:
            write_export({path: 1.0}, out, dtype, ["--ckpt", str(path)])
        return
    if decay != "bema":
        check_in("decay", decay, "[0, 1)")
    with ExitStack() as locks:
        steps = find_checkpoints(ckpt.expanduser(), locks)
        shares, base_share = bema_shares(steps) if decay == "bema" else (decayed_shares([*steps], decay), 0.0)
        write_export(shares, out, dtype, ["--ckpt", str(ckpt), "--decay", decay if decay == "bema" else f"{decay:g}"], base_share)


def write_export(shares: Mapping[Path, float], out: Path, dtype: str | None, options: list[str], base_share: float = 0.0) -> None:
    """Writes the sum of whole checkpoints of a run, and of its base model, each with its share, as a model folder."""
    newest = [*shares][-1]
    skeleton = newest.resolve().parents[1] / SKELETON
    opened = {path: checkpoint_weights(path) for path in shares}  # what is no checkpoint at all has no skeleton either
    record = read_record(skeleton)
    if base_share and record["pretrained"] is None:
        raise ValueError(f"`decay: bema` begins at the base model, and the run of {newest} began with random weights; give a decay in [0, 1).")
    base = base_weights(record, newest) if record["adapter"] or base_share else None
    parts = {path: exported_weights(part, path, record, skeleton, base if record["adapter"] else None) for path, part in opened.items()}
    weights = mean_weights(parts, shares, base, base_share)
    target: torch.dtype = getattr(torch, dtype) if dtype else weights.dtype
    name = str(target).removeprefix("torch.")
    about, command = mean_identity(shares, base_share).about(), shlex.join(["lit-talr", "export", *options, "--out", str(out), "--dtype", name])
    if is_made(out, about, command):
        print(f"{out}: is there already, from the same checkpoint{'s' if len(shares) > 1 else ''}")
        return
    rounding = Rounding.of(target, record["pretrained"], record["revision"])
    with new_folder(out) as folder:
        copy_skeleton(skeleton, folder)
        num_files = write_shards(folder, record["names"], weights, target, rounding)
        add_command(folder / "README.md", command, rounding)
        write_manifest(folder, about=about)
    source = newest.name if len(shares) == 1 else f"mean of {len(shares)} checkpoints to {newest.name}"
    print(f"{out}: {source}, {len(record['names']):,} tensors in {num_files} file(s), {name}")
    if rounding is not None:
        print(rounding)


def base_weights(record: Mapping[str, Any], path: Path) -> Weights:
    """The weights of the base model, as the run of a checkpoint had them.

    Raises:
        ValueError: If it is not there, or is another one by now.
    """
    pretrained, revision = record["pretrained"], record["revision"]
    if (found := fingerprint(model_folder(pretrained, revision))[:16]) != (trained := checkpoint_record(path)["configuration"][BASE_HASH]):
        raise ValueError(f"{pretrained} is not the base model that {path} has adapters for (hash {found} in place of {trained}); put that one there again.")
    state = load_model(pretrained, revision, None, 0, None, getattr(torch, record["dtype"])).state_dict()
    return Weights({name: tuple(value.shape) for name, value in state.items()}, widest(value.dtype for value in state.values()), state.__getitem__)


def exported_weights(weights: Weights, path: Path, record: dict[str, Any], skeleton: Path, base: Weights | None) -> Weights:
    """The weights of a whole checkpoint; where it has adapters alone, they are merged into those of the base model.

    Raises:
        ValueError: If it lacks a tensor that the run's record names.
    """
    if base is not None:
        weights = merged_weights(over_base(weights, base), PeftConfig.from_peft_type(**record["adapter"]))
    if missing := [name for name in record["names"].values() if name not in weights.shapes]:
        raise ValueError(f"{path} has no tensor `{missing[0]}`, which {skeleton / RECORD} names; give a checkpoint of the run that wrote both.")
    return weights


def find_checkpoints(run: Path, locks: ExitStack) -> dict[Path, int]:
    """The checkpoints of a run with their steps, one for each step, oldest first, each locked until the stack ends.

    Raises:
        ValueError: For fewer than two, and for one that is not whole.
    """
    by_step = {step: path for path in sorted(checkpoints(run)) if (step := step_of(path)) is not None}  # a best one may be the last one too
    if len(by_step) < 2:
        raise ValueError(
            f"`decay`: {run} has checkpoints of {len(by_step)} step(s) in its `checkpoints`, and a mean needs two; give the folder of a run whose "
            "`WholeCheckpoint` keeps more, such as `every_n_train_steps: 10` with `save_top_k: -1`."
        )
    for path in by_step.values():
        locks.enter_context(hold_whole(path, "ckpt", "remove it, or export another run"))
    return {path: step for step, path in sorted(by_step.items())}


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
