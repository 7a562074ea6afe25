"""Plain supervised fine-tuning."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class Standard(LossStrategy):
    """``w = 1``: the mean token NLL of the optimizer step.

    Source: maximum likelihood; the baseline of every method here.

    Use: first, and at a small learning rate (1e-6), which the paper finds to cost little of the general abilities.
    """

    def weights(self, stats: TokenStats) -> Tensor:
        return stats.mask.to(stats.nll.dtype)
