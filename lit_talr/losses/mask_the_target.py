"""A divergence from the base model in everything but the label, added to any loss."""

from torch import Tensor

from lit_talr.losses.base import TokenStats
from lit_talr.losses.divergence import DivergenceWrapper


class MaskTheTarget(DivergenceWrapper):
    """``loss + coefficient * KL(q_0 || q)``, q being p over all tokens but the label, renormalised: ``q = p / (1 - p_label)``; q_0 is the base model's.

    Plain KL also holds the label's own probability back, against the loss. This leaves it free, and holds how the rest is shared among the other tokens.
    Exact, per supervised token, weighted by neither the loss nor the data, and with the costs of ``KL``.

    Source: Xu et al., "Mask the Target: A Plug-and-Play Regularizer Against LoRA Forgetting", arXiv:2605.29498, after its abstract. The direction and the
    coefficient are not in it: both are those of ``KL`` here.

    Use: where ``KL`` costs too much of the domain. Its authors tried it with LoRA and its variants.

    Args:
        loss: The loss to regularise, ``Standard`` or any other.
        coefficient: Weight of the divergence, at least 0 and finite.

    Raises:
        ValueError: For a coefficient out of range; at start-up from random weights, and where every weight is sharded (ZeRO-3, FSDP2).
    """

    needs = frozenset({"masked_kl"})
    metric = "mask_the_target/divergence"

    def divergences(self, stats: TokenStats) -> Tensor | None:
        return stats.masked_kl
