"""Prior-support guided fine-tuning: the weight of a token is its probability under the base model."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class PriFT(LossStrategy):
    """``w = p_0``, the token's probability under the base model throughout: a DFT without feedback.

    Source: PriFT-prob of Wang et al., "PriFT: Prior-Support Guided Supervised Fine-Tuning", arXiv:2606.09396, and its code. Its other form, PriFT-mass
    (the tokens below which at least half of the base model's probability lies), is not included.

    Use: like DFT, where weights that follow the model would run away.

    Raises:
        ValueError: At start-up from random weights.
    """

    needs = frozenset({"base_nll"})

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        return (-stats.base_nll).exp()
