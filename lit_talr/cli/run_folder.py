"""Guards the folder of a run: one process at a time, no second run in it, and a record of every ``fit``."""

import logging
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_talr import __version__
from lit_talr.checkpoint.best import hold_best
from lit_talr.checkpoint.export import SKELETON
from lit_talr.checkpoint.find import checkpoints, hold_last, hold_whole, last_checkpoint
from lit_talr.checkpoint.pickles import refuse_code
from lit_talr.checkpoint.whole import remove
from lit_talr.module import DomainSFT
from lit_talr.utils.errors import nearest
from lit_talr.utils.files import looks_like_path, read_json, shipped, write_json
from lit_talr.utils.locks import Lock, try_lock
from lit_talr.utils.manifest import MANIFEST
from lit_talr.utils.score import DIGITS, read_scores
from lit_talr.utils.weight_files import check_files, refuse_adapter

logger = logging.getLogger(__name__)
CKPT_PATHS = {
    "fit": "`auto` (start, or continue from the newest whole checkpoint), `last` (the newest whole checkpoint) or the path of a checkpoint",
    "validate": "`last` (the newest whole checkpoint of the run), `best` (the best by the metric that it was kept for) or the path of a checkpoint",
}
CKPT_PATHS["test"] = CKPT_PATHS["validate"]
"""Values of ``--ckpt_path``, by command."""
REPLACED = ("config.yaml", "provenance.json", "metrics.json", SKELETON, "export", "adapter")
"""Names in its folder that a ``fit`` that starts deletes or replaces."""
EXPECTED = (".*", "answers", "checkpoints", "events.out.tfevents.*", "hparams.yaml", "trial.json")
"""Patterns of the other names that a run that died early, a sweep, or ``test`` of the base model leave there."""


def lock_run(run: Path) -> Lock:
    """Locks a run's folder, until the returned lock is closed or the process ends.

    Raises:
        ValueError: If another process holds the lock.
    """
    if (lock := try_lock(run / ".lock")) is None:
        raise ValueError(f"`run`: another run is writing into {run}; wait for its end, or name another folder.")
    return lock


def check_run(config: Namespace, verb: str) -> Lock | None:
    """Resolves ``ckpt_path: auto``, ``last`` and ``best``; refuses checkpoints that cannot be loaded, and folders that are used already.

    Returns:
        A lock on the checkpoint, which a ``fit`` that is running then does not delete; ``fit`` itself needs none.

    Raises:
        ValueError: With the way out.
    """
    run, pretrained = Path(config.run), config.model.pretrained
    if not config.run or (run.exists() and not run.is_dir()):
        raise ValueError(f"`run` must name a folder, new or of an earlier run, got {config.run!r}.")
    if pretrained:
        refuse_adapter(Path(shipped(pretrained)))
        check_files(Path(shipped(pretrained)))  # before Lightning starts the other ranks, which then need not
    given = config.ckpt_path
    config.ckpt_path, lock = find_checkpoint(given, run, verb)
    if pretrained and config.model.architecture is None:  # both are refused later
        check_place("model.pretrained", pretrained, "config.json")
        if config.model.revision and looks_like_path(shipped(pretrained)):
            raise ValueError(f"`model.revision`: {pretrained} is a folder, which has no revisions as a model of the hub has; leave the option out.")
    if config.model.tokenizer:
        check_place("model.tokenizer", config.model.tokenizer)
    if config.ckpt_path:
        refuse_code(Path(config.ckpt_path))
    elif verb == "fit" and given != "auto" and (run / "config.yaml").exists() and is_run(run):
        raise ValueError(f"`run`: {run} already holds a run; `--ckpt_path auto` continues it, or name another folder.")
    elif checkpoints(run) and not (pretrained and Path(pretrained).resolve().is_relative_to(run.resolve())):
        raise ValueError(
            f"`run`: {run} holds a trained model, which this would not {verb}; ask for it with `--ckpt_path last`, or name another folder with `--run`."
        )
    elif verb == "fit":
        check_others(run)
    return None if verb == "fit" else lock


def is_run(run: Path) -> bool:
    """Whether a ``fit`` has started in a folder, as its record there tells."""
    return "fits" in read_json(run / "provenance.json")


def check_others(run: Path) -> None:
    """Refuses to start where files that no run has written would be deleted or replaced; a warning names all others.

    Raises:
        ValueError: Naming these files.
    """
    if not run.is_dir() or is_run(run):
        return
    names = sorted(path.name for path in run.iterdir())
    if lost := [name for name in names if name in REPLACED and not is_written_by_us(run / name)]:
        raise ValueError(f"`run`: {run} holds {', '.join(lost)}, which no run has written and this one would replace; name a new folder with `--run`.")
    if others := [name for name in names if not any(fnmatchcase(name, pattern) for pattern in (*REPLACED, *EXPECTED))]:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        rank_zero_only(logger.warning)(f"`run`: {run} already holds {shown}; the files of the run are written among them. A new folder keeps them apart.")


def is_written_by_us(path: Path) -> bool:
    """Whether one of ``REPLACED`` was left by a run that died before its record was written, or by ``test`` of the base model."""
    if path.name != "metrics.json":
        return path.name == SKELETON and (path / MANIFEST).is_file()
    try:
        return bool(read_scores(path))
    except ValueError:
        return False


def check_place(option: str, name: str, file: str = "") -> None:
    """Refuses a path that is no folder, or not one with a file; the hub's client would take it for a malformed name.

    Raises:
        ValueError: With the nearest folder.
    """
    folder = Path(shipped(name)).expanduser()
    if not looks_like_path(name) or (folder.is_dir() and (folder / file).exists()):
        return
    if (folder / "export" / file).exists():
        near = [folder / "export"]
    elif folder.is_file():  # of weights, whose model is its folder, or of a checkpoint, whose run has an export
        near = [place for place in (folder.parent, folder.parents[1] / "export") if (place / (file or "tokenizer_config.json")).exists()]
    else:
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        near = [there / other for other in nearest(folder.relative_to(there).parts[0], os.listdir(there))] if there != folder else []
    hint = f"did you mean {near[0]}?" if near else "give a Hugging Face folder or a hub name."
    raise ValueError(f"`{option}`: {name} is not a folder{file and f' with a {file}'}; {hint}")


def find_checkpoint(given: str | None, run: Path, verb: str) -> tuple[str | None, Lock | None]:
    """The path of the checkpoint that ``ckpt_path`` asks for, with a lock on it; None for a start.

    Raises:
        ValueError: If there is none, if it is not whole, and for a word that the command does not take.
    """
    if given is None:
        return None, None
    if given == "auto" and verb == "fit":
        if not checkpoints(run) and (run / "export").exists():
            raise ValueError(f"`ckpt_path: auto`: {run} holds a run that has ended, but no checkpoint of it; name another folder with `--run`.")
        found = str(last_checkpoint(run)) if checkpoints(run) else None
        rank_zero_only(logger.info)(f"`ckpt_path: auto`: {f'continuing from {found}' if found else f'{run} holds no checkpoint, so the run starts'}.")
        return found, None
    if given == "last":
        path, lock = hold_last(run)
        return str(path), lock
    if given == "best" and verb != "fit":
        path, lock = hold_best(run)
        return str(path), lock
    if given in ("auto", "best", "hpc", "registry"):
        raise ValueError(f"`ckpt_path: {given}` is not for `{verb}`, which takes {CKPT_PATHS[verb]}.")
    return given, hold_whole(Path(given), "ckpt_path", f"give {CKPT_PATHS[verb]}")


def begin_run(run: Path, checkpoint: str | None) -> None:
    """Begins a ``fit`` in its locked folder: removes what an earlier start without a checkpoint left, which this one would take for its own.

    Raises:
        ValueError: If another run ended there between the look at its checkpoints and the lock.
    """
    if not Path(checkpoint).exists() if checkpoint else checkpoints(run):
        raise ValueError(f"`run`: another run has just written checkpoints into {run}; give the same line again.")
    if not checkpoint:
        remove(run / "config.yaml")
        remove(run / SKELETON)


class SaveConfig(SaveConfigCallback):
    """Writes the configuration and the command of each ``fit`` as training starts; a resumed run adds a file of its own."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, command: Sequence[str]) -> None:
        super().__init__(parser, config)
        self.command = shlex.join(["lit-talr", *command])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing yet, so that a start that is refused does not use up the folder."""

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        resumes = len(list(folder.glob("config.resume-*.yaml")))
        name = f"config.resume-{resumes + 1}.yaml" if (folder / "config.yaml").exists() else "config.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"lit_talr": __version__, "torch": torch.__version__, "transformers": transformers.__version__, "lightning": lightning.__version__}
        encoded = pl_module.data.encoded["train"]
        rows = {"number": len(encoded), "hash": encoded.content_hash[:DIGITS]}
        fit: dict[str, Any] = {"command": self.command, "time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions, "rows": rows}
        if changed := pl_module.record.changed:
            fit["resume_with"] = changed  # each with its value before and now
        for logger in trainer.loggers if pl_module.loaded_step is None else ():  # MLflow takes an option once
            if not isinstance(logger, TensorBoardLogger):  # whose page HParams is for the points of a sweep
                logger.log_hyperparams(pl_module.record.given)
        provenance = read_json(folder / "provenance.json")
        write_json(folder / "provenance.json", {"fits": [*provenance.get("fits", []), fit]})
        # after the record, by which a new start knows that it may replace this file
        self.parser.save(self.config, folder / name, skip_unset=False, multifile=False)
