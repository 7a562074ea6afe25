"""The divergence from the base model that a loss adds to its weighted NLL."""

import torch
from torch import Tensor

from lit_talr.losses.base import LossStrategy, LossWrapper, TokenStats
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.errors import check_in


class Divergence:
    """Sums the divergences of a micro-batch's supervised tokens, and keeps their mean over an optimizer step and all ranks for the log."""

    def __init__(self) -> None:
        self.mean: Tensor | None = None  # of the last step, as it found the weights
        self._sums: Tensor | None = None  # [2], divergence and number of tokens of the open step

    @staticmethod
    def total(kl: Tensor | None, mask: Tensor) -> Tensor:
        """The scalar sum of ``kl`` ``[B, T]`` over the supervised tokens; carries gradient."""
        assert kl is not None
        return torch.where(mask, kl, 0).sum()

    def observe(self, kl: Tensor | None, mask: Tensor) -> None:
        """Adds a micro-batch to the open step."""
        total = self.total(kl, mask).detach()
        sums = torch.stack([total, mask.sum().to(total.dtype)])
        self._sums = sums if self._sums is None else self._sums + sums

    def step_end(self) -> None:
        """Ends an optimizer step. Collective."""
        if self._sums is not None:
            total, number = sum_over_ranks(self._sums)
            self._sums = None
            self.mean = total / number

    def metrics(self, name: str) -> dict[str, Tensor]:
        """The mean under its name, once a step has ended."""
        return {} if self.mean is None else {name: self.mean}


class DivergenceWrapper(LossWrapper):
    """Adds a divergence to a loss; subclasses say which.

    Args:
        loss: The wrapped loss.
        coefficient: Weight of the divergence, at least 0 and finite.

    Raises:
        ValueError: For a coefficient out of range.
    """

    metric: str
    """The name of the mean divergence in the log."""

    def __init__(self, loss: LossStrategy, coefficient: float = 0.1) -> None:
        super().__init__(loss)
        check_in("coefficient", coefficient, "[0, inf)")
        self.coefficient = coefficient
        self._divergence = Divergence()

    def divergences(self, stats: TokenStats) -> Tensor | None:
        """The divergence of each token ``[B, T]``."""
        raise NotImplementedError

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """Adds the coefficient times the sum of the divergences; carries gradient through both, not through the weights."""
        return super().forward(stats, weights) + self.coefficient * self._divergence.total(self.divergences(stats), stats.mask)

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        super().observe(stats, weights)
        self._divergence.observe(self.divergences(stats), stats.mask)

    def step_end(self) -> None:
        super().step_end()
        self._divergence.step_end()

    def metrics(self) -> dict[str, Tensor]:
        """The mean divergence over the supervised tokens of the step, as the step found the weights, and the metrics of the wrapped loss."""
        return {**super().metrics(), **self._divergence.metrics(self.metric)}
