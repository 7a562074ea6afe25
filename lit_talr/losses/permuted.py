"""A control: the weights of another loss, on the wrong tokens."""

import torch
from torch import Tensor

from lit_talr.losses.base import LossStrategy, LossWrapper, TokenStats


class Permuted(LossWrapper):
    """``w_i = v_pi(i)``: the weights v of another loss, dealt out at random among the supervised tokens of the micro-batch.

    The weights are as many and as large as the other loss's, so that what the two runs do not share is which tokens are held back. The permutation
    follows from the tokens of the micro-batch and the seed: a run that is resumed draws the same, one with another layout of its steps another one.

    Source: none; a control of our own.

    Use: to tell whether a loss helps by choosing tokens, or by learning less.

    Args:
        loss: The loss whose weights are dealt out, such as ``TALR``.
        seed: Another one, another permutation.

    Raises:
        ValueError: For a negative seed.
    """

    def __init__(self, loss: LossStrategy, seed: int = 0) -> None:
        super().__init__(loss)
        if seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {seed}.")
        self.batching_invariant = False
        self.seed = seed

    def weights(self, stats: TokenStats) -> Tensor:
        weights = self.loss.weights(stats)
        own = weights[stats.mask]
        by_nll = stats.nll.detach()[stats.mask].argsort()  # so that the order of examples makes no difference
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(self.seed * 2**32 + len(own))).to(own.device)
        dealt = torch.empty_like(own)
        dealt[by_nll] = own[by_nll][order]
        return torch.zeros_like(weights).masked_scatter(stats.mask, dealt)
