"""Going on where a checkpoint was written: all follows from its number of optimizer steps."""

from typing import Any


def check_same(name: str, loaded: Any, here: Any) -> None:
    """Refuse to resume with something else."""
    if loaded != here:
        raise ValueError(f"The checkpoint is of another run: its {name} is {loaded}, here {here}; resume with what it was started with, or start a new run.")


def set_progress(fit_loop: dict[str, Any], num_steps: int, steps_per_epoch: int, accumulate: int) -> None:
    """Make the loops of a checkpoint say what they say right after optimizer step ``num_steps``, whenever in the epoch, and in whichever layout,
    it was saved: Lightning counts micro-batches, whose number per step may be another one now."""
    epoch = (num_steps - 1) // steps_per_epoch
    done = (num_steps - epoch * steps_per_epoch) * accumulate
    for part in ("total", "current"):
        fit_loop["epoch_progress"][part].update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    for part, number in (("total", num_steps * accumulate), ("current", done)):
        fit_loop["epoch_loop.batch_progress"][part].update(ready=number, started=number, processed=number, completed=number - 1)
    fit_loop["epoch_loop.batch_progress"]["is_last_batch"] = done == steps_per_epoch * accumulate
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = num_steps - 1
