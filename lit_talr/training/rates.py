"""Gives an optimizer the options of this run once a checkpoint has restored those of another."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_talr.training.configuration import NOT_OPTIONS
from lit_talr.training.non_finite import Guard
from lit_talr.training.schedules import Schedule

logger = logging.getLogger(__name__)
HIGH_RATE = 0.1
"""Rate of Adam and its like above which one is rarely meant."""
GroupOptions = Sequence[Mapping[str, Any]]
"""Options of each group of an optimizer."""


def group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of a new optimizer's groups, before a schedule or a checkpoint changes them."""
    return [
        {name: value.clone() if isinstance(value, Tensor) else value for name, value in group.items() if name not in NOT_OPTIONS}
        for group in optimizer.param_groups
    ]


def say_high_rate(optimizer: Optimizer) -> None:
    """Warns of a rate with which Adam or its like, whose every step is about as long as the rate, would destroy a pretrained model; 1e-7 to 1e-3 is usual."""
    rate = max(float(group["lr"]) for group in optimizer.param_groups)
    if "betas" in optimizer.defaults and rate > HIGH_RATE:
        meant = f"; did you mean {rate:g}e-6?" if rate >= 1 else "."
        rank_zero_only(logger.warning)(
            f"`model.optimizer.lr` {rate:g} is far above the usual rates of {type(optimizer).__name__}, 1e-7 to 1e-3, and moves each weight by about as much "
            f"in every step; give a smaller one{meant}"
        )


def attach_schedule(optimizer: Optimizer, schedule: Schedule, guard: Guard, trainer: Trainer, num_steps: int) -> LambdaLR:
    """Lets a schedule set the rate of every step; one that follows the loss sets it again, in an optimizer hook, once the guard knows the step's NLL.

    Args:
        optimizer: With its guard, whose hook comes before the schedule's.
        schedule: The schedule in force.
        guard: Sums the NLL over micro-batches and ranks, and reads it together with whether it is finite.
        trainer: Counts the optimizer steps.
        num_steps: Optimizer steps of the whole run.
    """
    schedule.say_endless_warmup(num_steps)
    scheduler = LambdaLR(optimizer, lambda step: schedule.factor(step, num_steps))

    def follow(optimizer: Optimizer, *_: Any) -> None:
        if guard.nll is not None and not guard.skips:
            schedule.see(trainer.global_step, guard.nll)
            factor = schedule.factor(trainer.global_step, num_steps)
            for group in optimizer.param_groups:
                set_rate(group, group["initial_lr"] * factor)

    if schedule.follows_loss:
        optimizer.register_step_pre_hook(follow)
    return scheduler


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Gives a group its rate, in place where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def restore_options(trainer: Trainer, options: GroupOptions, schedule: Schedule, step: int, num_steps: int) -> None:
    """Gives the groups their options, and the rate of the next step as the schedule has it in this run; the moments stay.

    Optimizer and scheduler of a checkpoint bring the options that they were saved with, and the rate of a run of another length.

    Args:
        trainer: With its optimizer, scheduler and any strategy; engines wrap the optimizer and share its groups.
        options: ``group_options`` of this run's optimizer.
        schedule: The schedule in force.
        step: Optimizer steps that are done.
        num_steps: Optimizer steps of the whole run.
    """
    (optimizer,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
    factor, rates = schedule.factor(step, num_steps), [given["lr"] for given in options]
    for group, given, rate in zip(optimizer.param_groups, options, rates, strict=True):
        group.update({name: value for name, value in given.items() if name != "lr"})
        group["initial_lr"] = rate
        set_rate(group, rate * factor)
    scheduler = config.scheduler
    scheduler.base_lrs, scheduler.last_epoch = list(rates), step  # type: ignore[union-attr]
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # type: ignore[union-attr]
