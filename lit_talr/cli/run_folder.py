"""Guards the folder of a run: one process at a time, no second run in it, and a record of every ``fit``."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lit_talr import __version__
from lit_talr.checkpoint.find import check_whole, hold, hold_last
from lit_talr.checkpoint.pickles import refuse_code
from lit_talr.module import DomainSFT
from lit_talr.utils.files import read_json, shipped, write_json
from lit_talr.utils.locks import Lock, try_lock
from lit_talr.utils.score import DIGITS
from lit_talr.utils.weight_files import check_files


def lock_run(run: Path) -> Lock:
    """Locks a run's folder, until the returned file is closed or the process ends.

    Raises:
        ValueError: If another process holds the lock.
    """
    if (handle := try_lock(run / ".lock")) is None:
        raise ValueError(f"`run`: another run is writing into {run}; wait for its end, or name another folder.")
    return handle


def check_run(config: Namespace, verb: str) -> Lock | None:
    """Resolves ``ckpt_path: last``, and refuses checkpoints that cannot be loaded and folders that are used already.

    Returns:
        A lock on the checkpoint, which a ``fit`` that is running then does not delete; ``fit`` itself needs none.

    Raises:
        ValueError: With the way out.
    """
    run, pretrained = Path(config.run), config.model.pretrained
    if not config.run or (run.exists() and not run.is_dir()):
        raise ValueError(f"`run` must name a folder, new or of an earlier run, got {config.run!r}.")
    if pretrained:
        check_files(Path(shipped(pretrained)))  # before Lightning starts the other ranks, which then need not
    lock = None
    if config.ckpt_path == "last":
        path, lock = hold_last(run)
        config.ckpt_path = str(path)
    elif config.ckpt_path:
        path = Path(config.ckpt_path)
        lock = hold(path) if path.exists() else None
        check_whole(path, "ckpt_path", "give a whole checkpoint from the run's `checkpoints` folder, or `last`")
    if config.ckpt_path:
        refuse_code(Path(config.ckpt_path))
    elif verb == "fit" and (run / "config.yaml").exists():
        raise ValueError(f"`run`: {run} already holds a run; continue it with `--ckpt_path last`, or name another folder.")
    elif (run / "checkpoints").exists() and not (pretrained and Path(pretrained).resolve().is_relative_to(run.resolve())):
        raise ValueError(
            f"`run`: {run} holds a trained model, which this would not {verb}; ask for it with `--ckpt_path last`, or name another folder with `--run`."
        )
    return None if verb == "fit" else lock


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
        self.parser.save(self.config, folder / name, skip_unset=False, multifile=False)
        versions = {"lit_talr": __version__, "torch": torch.__version__, "transformers": transformers.__version__, "lightning": lightning.__version__}
        encoded = pl_module.data.encoded["train"]
        rows = {"number": len(encoded), "hash": encoded.content_hash[:DIGITS]}
        fit: dict[str, Any] = {"command": self.command, "time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions, "rows": rows}
        if changed := pl_module.record.changed:
            fit["resume_with"] = changed  # each with its value before and now
        provenance = read_json(folder / "provenance.json")
        write_json(folder / "provenance.json", {"fits": [*provenance.get("fits", []), fit]})
