"""The position in the data where a checkpoint was written: it follows from the number of optimizer steps."""

from collections.abc import Mapping
from typing import Any

from lit_talr.data.batch_plan import BatchPlan


def continue_plan(checkpoint: Mapping[str, Any], plan: BatchPlan) -> None:
    """Continues the batch plan, and Lightning's loops, after the checkpoint's last optimizer step."""
    num_steps = checkpoint["global_step"]
    plan.resume(*divmod(num_steps, plan.steps_per_epoch))
    if num_steps:
        set_progress(checkpoint["loops"]["fit_loop"], num_steps, plan.steps_per_epoch, plan.accumulate)


def set_progress(fit_loop: dict[str, Any], num_steps: int, steps_per_epoch: int, accumulate: int) -> None:
    """Sets a checkpoint's loops to their state right after optimizer step ``num_steps``.

    Lightning counts micro-batches, whose number per step may differ now, and it may have saved at any moment of the epoch.
    """
    epoch = (num_steps - 1) // steps_per_epoch
    done = (num_steps - epoch * steps_per_epoch) * accumulate
    for part in ("total", "current"):
        fit_loop["epoch_progress"][part].update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    for part, number in (("total", num_steps * accumulate), ("current", done)):
        fit_loop["epoch_loop.batch_progress"][part].update(ready=number, started=number, processed=number, completed=number - 1)
    fit_loop["epoch_loop.batch_progress"]["is_last_batch"] = done == steps_per_epoch * accumulate
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = num_steps - 1
    for part in ("total", "current"):  # or the next validation would leave out as many batches as this one had seen
        fit_loop["epoch_loop.val_loop.batch_progress"][part].update(ready=0, started=0, processed=0, completed=0)
