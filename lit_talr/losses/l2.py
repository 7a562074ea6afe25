"""L2 penalty towards the base model's weights, added to any loss."""

from lit_talr.losses.anchored import Anchored
from lit_talr.losses.base import LossStrategy


class L2(Anchored):
    """``loss + coefficient * ||theta - theta_0||^2``, theta_0 being the base model's weights, around any loss.

    The penalty never enters the graph. An optimizer hook adds its gradient, ``2 * coefficient * (theta - theta_0)``, to the fp32 weights that this rank's
    optimizer owns, so it works under ZeRO too. That happens after gradient clipping. The anchors theta_0 are one copy of the owned weights; they are part
    of the optimizer's state, and so of every checkpoint.

    Source: unweighted elastic weight consolidation (Kirkpatrick et al., arXiv:1612.00796). The coefficient of the TALR paper is not known. FLOW
    (arXiv:2502.02797) uses 1e-3 for the sum of squares, and its code divides by the number of weights: pass the quotient to match it.

    Use: to bound how far the weights move, whatever the loss; it costs one more copy of the weights.

    Args:
        loss: The loss to regularise, ``Standard`` or any other.
        coefficient: Weight of the sum of squares, at least 0; at 0 training is bitwise that of ``loss``.

    Raises:
        ValueError: For a negative or infinite coefficient; at start-up with an adapter, with weights that are kept in half precision.
    """

    def __init__(self, loss: LossStrategy, coefficient: float = 1e-3) -> None:
        super().__init__(loss, coefficient)

    @property
    def strength(self) -> float:
        return 2 * self.coefficient
