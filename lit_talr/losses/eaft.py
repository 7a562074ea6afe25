"""Entropy-adaptive fine-tuning: a token weighs more where the model is undecided."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.utils.errors import check_in

NEARLY_LN_20 = 3.0  # the authors' divisor; ln 20 = 2.996


class EAFT(LossStrategy):
    """``w = (H / 3) ^ alpha``, H the entropy in nats of the twenty most likely tokens, renormalised.

    Confident mistakes, where the data contradicts the model, weigh next to nothing; so do confident hits.

    Source: Diao et al., "Entropy-Adaptive Fine-Tuning: Resolving Confident Conflicts to Mitigate Forgetting", arXiv:2601.02151, and its code.

    Use: where the data may contradict the model's knowledge. In its authors' comparison it kept more general ability than TALR did.

    Args:
        alpha: Exponent, at least 0 and finite; 0 is Standard.

    Raises:
        ValueError: For an exponent out of range.
    """

    needs = frozenset({"top_entropy"})

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_in("alpha", alpha, "[0, inf)")
        self.alpha = alpha

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.top_entropy is not None
        return (stats.top_entropy / NEARLY_LN_20).clamp(min=0) ** self.alpha
