"""A token weighs as much as the starting model believed in it."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class PriFT(LossStrategy):
    """``w = p_0``, the probability of the token under the starting model, throughout: a DFT that does not feed on itself.

    Source: PriFT-prob of Wang et al., "PriFT: Prior-Support Guided Supervised Fine-Tuning", arXiv:2606.09396, and its code. Its other form, PriFT-mass
    (the tokens below which at least half of the starting model's probability lies), is not in here.

    Use: as DFT, where weights that follow the model would run away.

    Raises:
        ValueError: At start-up from random weights.
    """

    needs = frozenset({"base_nll"})

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        return (-stats.base_nll).exp()
