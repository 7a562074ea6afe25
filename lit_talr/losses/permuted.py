"""A control: the weights of another loss, on the wrong tokens."""

import torch
from torch import Tensor

from lit_talr.losses.base import LossStrategy, LossWrapper, TokenStats
from lit_talr.utils.errors import check_least


class Permuted(LossWrapper):
    """``w_i = v_pi(i)``: the weights v of another loss, permuted at random among the supervised tokens of the micro-batch.

    Both runs have the same weights, on different tokens. The permutation follows from the tokens of the micro-batch and the seed: a resumed run draws
    the same one, a run whose steps are split otherwise does not.

    Source: none; our own control.

    Use: to tell whether a loss helps by choosing tokens, or by learning less.

    Args:
        loss: The loss whose weights are permuted, such as ``TALR``.
        seed: Seed of the permutation, at least 0.

    Raises:
        ValueError: For a negative seed.
    """

    def __init__(self, loss: LossStrategy, seed: int = 0) -> None:
        super().__init__(loss)
        check_least("seed", seed, 0)
        self.batching_invariant = False
        self.seed = seed

    def weights(self, stats: TokenStats) -> Tensor:
        weights = self.loss.weights(stats)
        supervised = weights[stats.mask]
        by_nll = stats.nll.detach()[stats.mask].argsort()  # the order of examples makes no difference
        order = torch.randperm(len(supervised), generator=torch.Generator().manual_seed(self.seed * 2**32 + len(supervised))).to(supervised.device)
        permuted = torch.empty_like(supervised)
        permuted[by_nll] = supervised[by_nll][order]
        return torch.zeros_like(weights).masked_scatter(stats.mask, permuted)
