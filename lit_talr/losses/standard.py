"""Plain supervised fine-tuning."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class Standard(LossStrategy):
    """``w = 1``: the mean NLL of the optimizer step's tokens.

    Source: maximum likelihood; the baseline of every method here.

    Use: first, and at a small learning rate (1e-6), which costs little general ability according to the paper.
    """

    def weights(self, stats: TokenStats) -> Tensor:
        return stats.mask.to(stats.nll.dtype)
