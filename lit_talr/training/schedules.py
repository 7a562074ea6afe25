"""Learning-rate schedules, as factors of the optimizer's rate."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_only

from lit_talr.utils.errors import check_in, check_least

logger = logging.getLogger(__name__)


class Schedule(ABC):
    """A factor of the rate for every optimizer step, after a linear warm-up.

    Args:
        warmup_ratio: Share of all steps in which the factor rises linearly to 1, in [0, 1].
        warmup_steps: Number of these steps, in place of the share.

    Raises:
        ValueError: If the ratio is out of range, the steps are negative, or both are given.
    """

    follows_loss: bool = False
    """Whether ``see`` must be told a step's NLL before ``factor`` gives the rate of that step."""

    def __init__(self, warmup_ratio: float = 0.0, warmup_steps: int = 0) -> None:
        check_in("warmup_ratio", warmup_ratio, "[0, 1]", "`warmup_steps` takes a number of steps")
        check_least("warmup_steps", warmup_steps, 0)
        if warmup_ratio and warmup_steps:
            raise ValueError(f"Give `warmup_ratio` or `warmup_steps`, not both (got {warmup_ratio} and {warmup_steps}).")
        self.warmup_ratio = warmup_ratio
        self.warmup_steps = warmup_steps

    def factor(self, step: int, num_steps: int) -> float:
        """The factor of optimizer step ``step`` (from 0) among ``num_steps``; the first step of a warm-up is already above 0."""
        progress = (step - (warmup := self.num_warmup_steps(num_steps))) / max(1, num_steps - warmup)
        return self.rise(step, num_steps) * self.decay(min(1.0, max(0.0, progress)))

    def rise(self, step: int, num_steps: int) -> float:
        """The part of the factor that the warm-up makes, above 0 and at most 1."""
        return min(1.0, (step + 1) / (self.num_warmup_steps(num_steps) + 1))

    def num_warmup_steps(self, num_steps: int) -> int:
        return self.warmup_steps or round(self.warmup_ratio * num_steps)

    def say_endless_warmup(self, num_steps: int) -> None:
        """Warns where a run of ``num_steps`` ends before its learning rate is there."""
        if num_steps <= (warmup := self.num_warmup_steps(num_steps)):
            option = "warmup_steps" if self.warmup_steps else "warmup_ratio"
            rank_zero_only(logger.warning)(
                f"`schedule.{option}`: the warm-up takes {warmup:,} steps and the run has {num_steps:,}, so its learning rate ends at "
                f"{self.rise(num_steps - 1, num_steps):.0%} of the one that was asked for; lower `{option}`."
            )

    @abstractmethod
    def decay(self, progress: float) -> float:
        """The factor after the warm-up, ``progress`` going from 0 to 1; during the warm-up that at 0."""

    def see(self, step: int, nll: float) -> None:
        """Takes in the NLL of an optimizer step before its rate is set; a second call for the same step changes nothing.

        Args:
            step: Number of the step, from 0.
            nll: Mean NLL of the step's supervised tokens over all micro-batches and ranks, in nats, unweighted.
        """
        return

    def state(self) -> dict[str, float]:
        """Returns what a resumed run must know of the steps that are done."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continues from the ``state`` of a checkpoint; from an empty one, or that of another schedule, begins anew."""
        return


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


class FINCH(Schedule):
    """``min(1 / sqrt(L + epsilon), cap)``, L being a running mean of the steps' NLL: a high loss lowers the rate, and the rate rises as the loss falls.

    ``L = smoothing * L + (1 - smoothing) * nll`` takes in each step's own NLL before that step's rate is set: the unweighted mean over the supervised tokens
    of all its micro-batches and ranks, whatever the loss. kappa of the paper is the optimizer's rate. A skipped step leaves L as it is.

    Source: "Fine-Tuning Without Forgetting via Loss-Adaptive Learning Rates" (Prashant et al., arXiv:2605.20005, a preprint), as readers report it: the
    formula, 0.9 and a largest rate of 5e-5 are certain. Public reimplementations have kappa = 2e-5, so that ``cap`` is 2.5. L begins with the first step's
    NLL, as one of them has it; another takes the mean over the training set. The paper's ``epsilon`` is not known.

    Use: to forget less without holding back hard tokens. The authors bound what a step forgets by its rate times the square root of its loss.

    Args:
        smoothing: Share of the running mean that stays at each step, in [0, 1).
        cap: The largest factor, above 0: the largest rate is ``cap`` times the optimizer's.
        epsilon: Added to the running mean, in nats, above 0.
        warmup_ratio: Share of all steps in which the factor is scaled up linearly, in [0, 1].
        warmup_steps: Number of these steps, in place of the share.

    Raises:
        ValueError: For a value out of range.
    """

    follows_loss = True

    def __init__(self, smoothing: float = 0.9, cap: float = 2.5, epsilon: float = 1e-8, warmup_ratio: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(warmup_ratio, warmup_steps)
        check_in("smoothing", smoothing, "[0, 1)", "0 takes each step's own NLL")
        check_in("cap", cap, "(0, inf)")
        check_in("epsilon", epsilon, "(0, inf)")
        self.smoothing, self.cap, self.epsilon = smoothing, cap, epsilon
        self._mean: float | None = None
        self._step = -1  # the last that was seen

    def decay(self, progress: float) -> float:
        return self.cap if self._mean is None else min(1 / math.sqrt(self._mean + self.epsilon), self.cap)

    def see(self, step: int, nll: float) -> None:
        if step != self._step:
            self._mean = nll if self._mean is None else self.smoothing * self._mean + (1 - self.smoothing) * nll
            self._step = step

    def state(self) -> dict[str, float]:
        return {} if self._mean is None else {"mean": self._mean, "step": self._step}

    def restore(self, state: Mapping[str, float]) -> None:
        self._mean, self._step = state.get("mean"), int(state.get("step", -1))
