"""Dynamic fine-tuning: a token weighs as much as the model believes in it."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class DFT(LossStrategy):
    """``w = p``, the model's present probability of the token: TALR at temperature 1 without a floor.

    Source: Wu et al., "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification", arXiv:2508.05629.

    Use: where the model knows the domain already and only its manner has to change; a token that it does not know is hardly learned.
    """

    def weights(self, stats: TokenStats) -> Tensor:
        return (-stats.nll.detach()).exp()
