"""Anchored supervised fine-tuning: DFT with a divergence from the base model."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.losses.divergence import Divergence
from lit_talr.utils.errors import check_in


class ASFT(LossStrategy):
    """``w = p``, as DFT, ``+ coefficient * KL(p_0 || p)`` per supervised token, over the whole vocabulary; p_0 is the base model's distribution.

    The divergence carries gradient. Neither DFT nor the data weight it. The base model runs at every step too. That costs one more forward and its frozen
    weights on the device, in the precision of training. With an adapter they are there already: it is switched off for that forward.

    Source: Zhu et al., "Anchored Supervised Fine-Tuning", arXiv:2509.23753; the coefficient is its code's default.

    Use: where DFT drifts. The anchor holds on the domain's text, not on other text (`Drift` measures that).

    Args:
        coefficient: Weight of the divergence, at least 0 and finite; 0 is DFT.

    Raises:
        ValueError: For a coefficient out of range; at start-up from random weights, and where every weight is sharded (ZeRO-3, FSDP2).
    """

    needs = frozenset({"base_kl"})

    def __init__(self, coefficient: float = 0.1) -> None:
        super().__init__()
        check_in("coefficient", coefficient, "[0, inf)")
        self.coefficient = coefficient
        self._divergence = Divergence()

    def weights(self, stats: TokenStats) -> Tensor:
        return (-stats.nll.detach()).exp()

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """Adds the coefficient times the sum of the divergences; carries gradient through both, not through the weights."""
        return super().forward(stats, weights) + self.coefficient * self._divergence.total(stats.base_kl, stats.mask)

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        self._divergence.observe(stats.base_kl, stats.mask)

    def step_end(self) -> None:
        self._divergence.step_end()

    def metrics(self) -> dict[str, Tensor]:
        """``asft/kl``, the mean divergence over the supervised tokens of the step, as the step found the weights."""
        return self._divergence.metrics("asft/kl")
