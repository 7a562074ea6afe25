"""The family between likelihood and probability."""

import math

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class GCE(LossStrategy):
    """``loss = (1 - p^a) / a`` of each token, whose gradient is that of the NLL with ``w = p^a``: generalised cross-entropy.

    Towards a = 0 it is Standard, at 1 it has the gradient of DFT; it is TALR at the fixed temperature 1 / a without a floor. The logged loss
    is ``p^a * nll``, of the same gradient.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", arXiv:1805.07836, whose exponent
    is 0.7; for fine-tuning "Beyond Log Likelihood", arXiv:2510.00526, which compares exponents from 0 to 10.

    Use: to set how much hard tokens count by one number that does not move during training.

    Args:
        a: Exponent, at least 0 and finite; 0 is Standard.

    Raises:
        ValueError: For an exponent out of range.
    """

    def __init__(self, a: float = 0.7) -> None:
        super().__init__()
        if not 0 <= a < math.inf:
            raise ValueError(f"`a` must be at least 0 and finite, got {a}.")
        self.a = a

    def weights(self, stats: TokenStats) -> Tensor:
        return (-self.a * stats.nll.detach()).exp()
