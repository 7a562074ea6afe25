"""Plain supervised fine-tuning."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class Standard(LossStrategy):
    """Every supervised token weighs 1: the mean token NLL of the optimizer step."""

    def weights(self, stats: TokenStats) -> Tensor:
        return stats.mask.to(stats.nll.dtype)
