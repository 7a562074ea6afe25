"""A divergence from the base model, added to any loss."""

from torch import Tensor

from lit_talr.losses.base import TokenStats
from lit_talr.losses.divergence import DivergenceWrapper


class KL(DivergenceWrapper):
    """``loss + coefficient * KL(p_0 || p)`` per supervised token, over the whole vocabulary, around any loss; p_0 is the base model's distribution.

    The divergence is exact and carries gradient. Neither the loss nor the data weight it. The base model runs at every step too. That costs one more
    forward and its frozen weights on the device, in the precision of training. With an adapter they are there already: it is switched off for that
    forward.

    Source: common; "RL's Razor", arXiv:2509.04259, finds forgetting to grow with the divergence from the base model on the new task's texts. Readers report
    a coefficient of 0.1 in DiSC's comparison (arXiv:2602.16093) and of 0.5 in EAFT's (arXiv:2601.02151), not the direction.

    Use: to bound what the model says, as L2 bounds its weights. The anchor holds on the domain's text, not on other text (`Drift` measures that).

    Args:
        loss: The loss to regularise, ``Standard`` or any other; around ``DFT`` it is ASFT.
        coefficient: Weight of the divergence, at least 0 and finite.

    Raises:
        ValueError: For a coefficient out of range; at start-up from random weights, and where every weight is sharded (ZeRO-3, FSDP2).
    """

    needs = frozenset({"base_kl"})
    metric = "kl/divergence"

    def divergences(self, stats: TokenStats) -> Tensor | None:
        return stats.base_kl
