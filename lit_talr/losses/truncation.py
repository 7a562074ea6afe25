"""Hard tokens do not count at all."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, LossWrapper, TokenStats


class Truncation(LossWrapper):
    """``w = 0`` where ``p < threshold``, else the weight of the loss that it holds.

    Tokens that are left out still count in the number that the sum is divided by; in the code of "Beyond Log Likelihood" they do not: a factor near the
    share of tokens kept, which AdamW cancels (not its clipping).

    Source: a reviewer of the TALR paper (arXiv:2509.20758) reports that its figure 3c was made with a variant that cuts hard tokens off; whether the
    others weighed 1 or as in TALR is not known, nor whether its threshold was the figure's p of 0.2. LossWrapper Standard it is also
    ``-log p`` of tokens with p >= 0.2, one of the losses that "Beyond Log Likelihood", arXiv:2510.00526, compares.

    Use: to see whether easy tokens alone pull the hard ones along; not to learn what the model does not know.

    Args:
        loss: The loss whose weights the other tokens get, ``Standard`` or any other.
        threshold: Least probability of a token that counts, in [0, 1]; 0 is the loss that is held.

    Raises:
        ValueError: For a threshold out of range.
    """

    def __init__(self, loss: LossStrategy, threshold: float = 0.2) -> None:
        super().__init__(loss)
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {threshold}.")
        self.threshold = threshold
        self.least_weight = None

    def weights(self, stats: TokenStats) -> Tensor:
        return super().weights(stats) * ((-stats.nll.detach()).exp() >= self.threshold)
