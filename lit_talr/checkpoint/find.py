"""Finds the checkpoints of a run, and tells whether they are whole and which strategy wrote them."""

import logging
import re
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_only

from lit_talr.checkpoint.seal import why_unsealed
from lit_talr.modeling.strategies import checkpoint_kind, is_deepspeed
from lit_talr.utils.checksums import find_fault
from lit_talr.utils.manifest import why_changed

logger = logging.getLogger(__name__)


def why_not_whole(path: Path) -> str | None:
    """The fault of a checkpoint, such as "lacks FILE"; None if every byte is as it was written."""
    return find_fault(path, why_unsealed if path.is_file() else why_changed)


def check_whole(path: Path, option: str, way_out: str) -> None:
    """Refuses a path that is not a whole checkpoint, before anything is built.

    Raises:
        ValueError: Naming the option and the fault.
    """
    if not path.exists():
        raise ValueError(f"`{option}`: {path} does not exist; {way_out}.")
    if fault := why_not_whole(path):
        raise ValueError(f"`{option}`: {path} is not a whole checkpoint: it {fault}; {way_out}.")


def last_checkpoint(run: Path) -> Path:
    """The newest whole checkpoint of a run; newer ones that are not whole are named in the log.

    Raises:
        ValueError: If there is none.
    """
    folder = run / "checkpoints"
    paths = sorted(folder.glob("[!.]*.ckpt"), key=age, reverse=True)
    faults: list[str] = []
    for path in paths:
        if fault := why_not_whole(path):
            faults.append(f"{path} {fault}")
            continue
        if faults:
            rank_zero_only(logger.warning)(f"`ckpt_path`: {'; '.join(faults)}. Using the newest whole checkpoint, {path}.")
        return path
    if paths:
        raise ValueError(f"`ckpt_path`: of the {len(paths)} checkpoint(s) in {folder} none is whole; start the run again in another folder.")
    raise ValueError(f"`ckpt_path`: {folder} holds no checkpoint; start the run by `lit-talr fit` with `--ckpt_path auto`, or name its folder with `--run`.")


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, whole or not, but none that was still being written."""
    return list((run / "checkpoints").glob("[!.]*.ckpt"))


def step_of(path: Path) -> int | None:
    """The optimizer step in a checkpoint's name."""
    step = re.search(r"step=(\d+)", path.name)
    return int(step[1]) if step else None


def age(path: Path) -> tuple[int, bool, float]:
    """Sorts checkpoints by the step in the name, then those named ``last`` after others, then by time."""
    step = step_of(path)
    return -1 if step is None else step, path.name.startswith("last"), path.stat().st_mtime


def kind(path: Path) -> str:
    """The strategies that can read a checkpoint, in the words of ``checkpoint_kind``."""
    if path.is_file():
        return "one process or DDP"
    if not (path / "latest").is_file():
        return "FSDP2"
    return "ZeRO-3" if any(path.glob("checkpoint/zero_pp_rank_*_model_states.pt")) else "ZeRO-1 or ZeRO-2"


def optimizer_files(path: Path) -> list[Path]:
    """The optimizer's files in a checkpoint of DeepSpeed, one for each rank that wrote it, ``bf16_...`` where weights were bfloat16."""
    return list(path.glob("checkpoint/*_optim_states.pt"))


def check_before_loading(strategy: Strategy) -> None:
    """Lets a strategy load whole checkpoints only, also where no command line has checked them."""
    load = strategy.load_checkpoint

    def load_whole(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        check_whole(Path(checkpoint_path), "ckpt_path", "give another, such as one that WholeCheckpoint wrote")
        return load(checkpoint_path, weights_only)

    strategy.load_checkpoint = load_whole  # type: ignore[method-assign,assignment]


def check_strategy(path: Path, trainer: Trainer) -> None:
    """Refuses a checkpoint that another strategy wrote.

    For DeepSpeed also refuses another number of ranks, and another precision, whose files it would not find.

    Raises:
        ValueError: With the way out.
    """
    zero = is_deepspeed(trainer.strategy)
    if kind(path) != checkpoint_kind(trainer.strategy):
        raise ValueError(
            f"`ckpt_path`: {path} is a checkpoint of {kind(path)}; give the strategy of its run, or `lit-talr export` it and start from the export."
        )
    if zero and (ranks := len(files := optimizer_files(path))) != trainer.world_size:
        raise ValueError(
            f"`ckpt_path`: {path} was written by {ranks} rank(s), and DeepSpeed reads it with as many only, not with {trainer.world_size}; "
            f"start {ranks}, or `lit-talr export` it and start from the export."
        )
    if zero and files[0].name.startswith("bf16") != str(trainer.precision).startswith("bf16"):
        raise ValueError(f"`ckpt_path`: {path} was written in another precision than {trainer.precision}; give `trainer.precision` as its run did.")
