"""Generalised cross-entropy: the family between likelihood and probability."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.utils.errors import check_in


class GCE(LossStrategy):
    """``loss = (1 - p^a) / a`` of each token, whose gradient is that of the NLL with ``w = p^a``: generalised cross-entropy.

    It approaches Standard as a goes to 0, and has the gradient of DFT at 1. It is TALR at the fixed temperature 1 / a without a floor. The logged loss is
    ``p^a * nll``, which has the same gradient.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", arXiv:1805.07836, whose exponent
    is 0.7; for fine-tuning "Beyond Log Likelihood", arXiv:2510.00526, which compares exponents from 0 to 10.

    Use: to set the weight of hard tokens by one number that stays fixed during training.

    Args:
        a: Exponent, at least 0 and finite; 0 is Standard.

    Raises:
        ValueError: For an exponent out of range.
    """

    def __init__(self, a: float = 0.7) -> None:
        super().__init__()
        check_in("a", a, "[0, inf)")
        self.a = a

    def weights(self, stats: TokenStats) -> Tensor:
        return (-self.a * stats.nll.detach()).exp()
