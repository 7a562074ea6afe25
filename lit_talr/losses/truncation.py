"""Truncation: hard tokens do not count at all."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, LossWrapper, TokenStats
from lit_talr.utils.errors import check_in


class Truncation(LossWrapper):
    """``w = 0`` where ``p < threshold``, else the weight of the wrapped loss.

    Truncated tokens still count in the number that the sum is divided by; in the code of "Beyond Log Likelihood" they do not. That is a factor near the
    share of the other tokens, which AdamW cancels, but clipping does not.

    Source: a reviewer of the TALR paper (arXiv:2509.20758) reports that its figure 3c was made with a variant that truncates hard tokens. Whether
    the others weighed 1 or as in TALR is not known, nor whether its threshold was the figure's p of 0.2. Around Standard it is also
    ``-log p`` of tokens with p >= 0.2, one of the losses that "Beyond Log Likelihood", arXiv:2510.00526, compares.

    Use: to see whether easy tokens alone pull the hard ones along; not to teach tokens that the model does not know.

    Args:
        loss: The loss that weighs the other tokens, ``Standard`` or any other.
        threshold: Least probability of a token that counts, in [0, 1]; 0 is the wrapped loss.

    Raises:
        ValueError: For a threshold out of range.
    """

    def __init__(self, loss: LossStrategy, threshold: float = 0.2) -> None:
        super().__init__(loss)
        check_in("threshold", threshold, "[0, 1]")
        self.threshold = threshold
        self.least_weight = None

    def weights(self, stats: TokenStats) -> Tensor:
        return super().weights(stats) * ((-stats.nll.detach()).exp() >= self.threshold)
