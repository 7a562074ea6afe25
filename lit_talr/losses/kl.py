"""A divergence from the base model, added to any loss."""

from torch import Tensor

from lit_talr.losses.base import LossStrategy, LossWrapper, TokenStats
from lit_talr.losses.divergence import Divergence
from lit_talr.utils.errors import check_in


class KL(LossWrapper):
    """``loss + coefficient * KL(p_0 || p)`` per supervised token, over the whole vocabulary, around any loss; p_0 is the base model's distribution.

    The divergence is exact, carries gradient and is not weighted. The base model runs at every step too. That costs one more forward and its frozen
    weights on the device, in the precision of training. With LoRA they are there already: its adapters are switched off for that forward.

    Source: common; "RL's Razor", arXiv:2509.04259, finds forgetting to grow with the divergence from the base model on the new task's texts. The coefficient
    is that of the baseline in the code of DiSC, arXiv:2602.16093; EAFT's comparison (arXiv:2601.02151) has 0.5. Which direction those two take is not known.

    Use: to bound what the model says, as L2 bounds its weights. The anchor holds on the domain's text, not on other text (`Drift` measures that).

    Args:
        loss: The loss to regularise, ``Standard`` or any other; around ``DFT`` it is ASFT.
        coefficient: Weight of the divergence, at least 0 and finite.

    Raises:
        ValueError: For a coefficient out of range; at start-up from random weights, and where every weight is sharded (ZeRO-3, FSDP2).
    """

    needs = frozenset({"base_kl"})
    metric = "kl/divergence"

    def __init__(self, loss: LossStrategy, coefficient: float = 0.1) -> None:
        super().__init__(loss)
        check_in("coefficient", coefficient, "[0, inf)")
        self.coefficient = coefficient
        self._divergence = Divergence()

    def divergences(self, stats: TokenStats) -> Tensor | None:
        """The divergence of each token ``[B, T]``."""
        return stats.base_kl

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """Adds the coefficient times the sum of the divergences; carries gradient through both, not through the weights."""
        return super().forward(stats, weights) + self.coefficient * self._divergence.total(self.divergences(stats), stats.mask)

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        super().observe(stats, weights)
        self._divergence.observe(self.divergences(stats), stats.mask)

    def step_end(self) -> None:
        super().step_end()
        self._divergence.step_end()

    def metrics(self) -> dict[str, Tensor]:
        """The mean divergence over the supervised tokens of the step, as the step found the weights, and the metrics of the wrapped loss."""
        return {**super().metrics(), **self._divergence.metrics(self.metric)}
