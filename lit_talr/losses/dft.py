"""Dynamic fine-tuning: a token weighs as much as the model believes in it."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class DFT(LossStrategy):
    """``w = p``, without gradient (Wu et al., "On the Generalization of SFT", arXiv:2508.05629): TALR at temperature 1 without a floor."""

    def weights(self, stats: TokenStats) -> Tensor:
        return (-stats.nll.detach()).exp()
