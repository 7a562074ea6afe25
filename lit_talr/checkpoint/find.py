"""Finds the checkpoints of a run, and tells whether they are whole and which strategy wrote them."""

import logging
import re
import time
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_talr.checkpoint.seal import why_unsealed
from lit_talr.modeling.strategies import checkpoint_kind, is_deepspeed
from lit_talr.utils.checksums import find_fault
from lit_talr.utils.locks import Lock
from lit_talr.utils.manifest import why_changed

logger = logging.getLogger(__name__)
ATTEMPTS = 20
"""Number of looks at the checkpoints of a run, where one that was found is gone."""


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
    if (path / "config.json").is_file():
        raise ValueError(f"`{option}`: {path} is a model folder, no checkpoint; give it as `--model.pretrained {path}` without `--ckpt_path`, or {way_out}.")
    if fault := why_not_whole(path):
        raise ValueError(f"`{option}`: {path} is not a whole checkpoint: it {fault}; {way_out}.")


def last_checkpoint(run: Path) -> Path:
    """The newest whole checkpoint of a run; newer ones that are not whole are named in the log.

    Raises:
        ValueError: If there is none.
    """
    path, lock = hold_last(run)
    lock.close()
    return path


def hold_last(run: Path) -> tuple[Path, Lock]:
    """The same, with a lock that keeps a ``fit`` that is running from deleting it.

    Raises:
        ValueError: If there is none.
    """
    for _ in range(ATTEMPTS):
        try:
            return find_last(run)
        except (FileNotFoundError, BlockingIOError):  # replaced meanwhile
            time.sleep(0.1)
    return find_last(run)


def hold(path: Path) -> Lock:
    """Keeps a ``fit`` that is running from deleting a checkpoint, until the lock is closed.

    Raises:
        FileNotFoundError, BlockingIOError: If it has just been deleted, or is being deleted.
    """
    lock = Lock(path, shared=True)
    path.stat()
    return lock


def hold_whole(path: Path, option: str, way_out: str) -> Lock:
    """The same for a path that a user gives or a run has on record.

    Raises:
        ValueError: If it is not a whole checkpoint; naming the option and the fault.
    """
    try:
        lock = hold(path)
    except (FileNotFoundError, BlockingIOError) as error:
        raise ValueError(f"`{option}`: {path} does not exist; {way_out}.") from error
    check_whole(path, option, way_out)
    return lock


def find_last(run: Path) -> tuple[Path, Lock]:
    folder = run / "checkpoints"
    paths = sorted(checkpoints(run), key=age, reverse=True)
    faults: list[str] = []
    for path in paths:
        lock = hold(path)
        if fault := why_not_whole(path):
            faults.append(f"{path} {fault}")
            continue
        if faults:
            rank_zero_only(logger.warning)(f"`ckpt_path`: {'; '.join(faults)}. Using the newest whole checkpoint, {path}.")
        return path, lock
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
