"""Dynamic fine-tuning: the weight of a token is its probability."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class DFT(LossStrategy):
    """``w = p``, the token's current probability: TALR at temperature 1 without a floor.

    Source: Wu et al., "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification", arXiv:2508.05629.

    Use: where the model knows the domain and only its style has to change; tokens that it does not know are hardly learned.
    """

    def weights(self, stats: TokenStats) -> Tensor:
        return (-stats.nll.detach()).exp()
