"""The divergence from the base model that a loss adds to its weighted NLL."""

import torch
from torch import Tensor

from lit_talr.utils.collectives import sum_over_ranks


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
