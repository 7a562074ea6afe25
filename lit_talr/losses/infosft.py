"""InfoSFT: tokens of middling probability weigh most."""

import math

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.utils.errors import check_in


class InfoSFT(LossStrategy):
    """``w = p * max(1 - logit(p) / logit(threshold), 0)``, with ``logit(p) = log(p / (1 - p))``.

    What the model knows already, p above the threshold, weighs nothing, and what it holds for impossible next to nothing. By default the largest weight is
    0.51, at p = 0.57.

    Source: Sabbaghi et al., "InfoSFT: Learn More and Forget Less with Information-Aware Token Weighting", arXiv:2605.14967, and its code. The
    paper's p is the base model's, as far as its summaries tell; the code, followed here, takes that of the model in training.

    Use: like DFT, where time should not go into tokens that are known already.

    Args:
        threshold: Probability from which on a token weighs nothing, in (0.5, 1); the code's default.

    Raises:
        ValueError: For a threshold out of range.
    """

    def __init__(self, threshold: float = 0.93) -> None:
        super().__init__()
        check_in("threshold", threshold, "(0.5, 1)")
        self.threshold = threshold

    def weights(self, stats: TokenStats) -> Tensor:
        nll = stats.nll.detach().clamp(min=0)  # rounding may take it below
        logit = -nll - (-nll.neg().expm1()).log()
        return nll.neg().exp() * (1 - logit / math.log(self.threshold / (1 - self.threshold))).clamp(min=0)
