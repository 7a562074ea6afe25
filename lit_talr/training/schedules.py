"""Learning-rate schedules, as factors of the optimizer's rate."""

import logging
import math
from abc import ABC, abstractmethod

from lightning.pytorch.utilities import rank_zero_only

from lit_talr.utils.errors import check_in, check_least

logger = logging.getLogger(__name__)


class Schedule(ABC):
    """A factor in [0, 1] for every optimizer step, after a linear warm-up.

    Args:
        warmup_ratio: Share of all steps in which the factor rises linearly to 1, in [0, 1].
        warmup_steps: Number of these steps, in place of the share.

    Raises:
        ValueError: If the ratio is out of range, the steps are negative, or both are given.
    """

    def __init__(self, warmup_ratio: float = 0.0, warmup_steps: int = 0) -> None:
        check_in("warmup_ratio", warmup_ratio, "[0, 1]", "`warmup_steps` takes a number of steps")
        check_least("warmup_steps", warmup_steps, 0)
        if warmup_ratio and warmup_steps:
            raise ValueError(f"Give `warmup_ratio` or `warmup_steps`, not both (got {warmup_ratio} and {warmup_steps}).")
        self.warmup_ratio = warmup_ratio
        self.warmup_steps = warmup_steps

    def factor(self, step: int, num_steps: int) -> float:
        """The factor of optimizer step ``step`` (from 0) among ``num_steps``; the first step of a warm-up is already above 0."""
        warmup = self.num_warmup_steps(num_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.decay(min(1.0, (step - warmup) / max(1, num_steps - warmup)))

    def num_warmup_steps(self, num_steps: int) -> int:
        return self.warmup_steps or round(self.warmup_ratio * num_steps)

    def say_endless_warmup(self, num_steps: int) -> None:
        """Warns where a run of ``num_steps`` ends before its learning rate is there."""
        if num_steps <= (warmup := self.num_warmup_steps(num_steps)):
            option = "warmup_steps" if self.warmup_steps else "warmup_ratio"
            rank_zero_only(logger.warning)(
                f"`schedule.{option}`: the warm-up takes {warmup:,} steps and the run has {num_steps:,}, so its learning rate ends at "
                f"{self.factor(num_steps - 1, num_steps):.0%} of the one that was asked for; lower `{option}`."
            )

    @abstractmethod
    def decay(self, progress: float) -> float:
        """The factor after the warm-up, ``progress`` going from 0 to 1."""


class Constant(Schedule):
    """Stays at 1."""

    def decay(self, progress: float) -> float:
        return 1.0


class Linear(Schedule):
    """Falls linearly from 1 to 0."""

    def decay(self, progress: float) -> float:
        return 1.0 - progress


class Cosine(Schedule):
    """Falls from 1 to 0 along half a cosine."""

    def decay(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))
