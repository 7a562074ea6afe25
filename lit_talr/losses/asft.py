"""Anchored supervised fine-tuning: DFT with a divergence from the base model."""

import torch
from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.errors import check_in


class ASFT(LossStrategy):
    """``w = p``, as DFT, ``+ coefficient * KL(p_0 || p)`` per supervised token, over the whole vocabulary; p_0 is the base model's distribution.

    The divergence carries gradient and is not weighted. The base model runs at every step too. That costs one more forward and its frozen weights on the
    device, in the precision of training. With LoRA they are there already: its adapters are switched off for that forward.

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
        self._sums: Tensor | None = None  # [2], divergence and number of tokens of the open step
        self._kl: Tensor | None = None

    def weights(self, stats: TokenStats) -> Tensor:
        return (-stats.nll.detach()).exp()

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """Adds the coefficient times the sum of the divergences; carries gradient through both, not through the weights."""
        return super().forward(stats, weights) + self.coefficient * total_divergence(stats)

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        kl = total_divergence(stats).detach()
        sums = torch.stack([kl, stats.mask.sum().to(kl.dtype)])
        self._sums = sums if self._sums is None else self._sums + sums

    def step_end(self) -> None:
        if self._sums is not None:
            kl, number = sum_over_ranks(self._sums)
            self._sums = None
            self._kl = kl / number

    def metrics(self) -> dict[str, Tensor]:
        """``asft/kl``, the mean divergence over the supervised tokens of the step, as the step found the weights."""
        return {} if self._kl is None else {"asft/kl": self._kl}


def total_divergence(stats: TokenStats) -> Tensor:
    """The sum of the divergences over supervised tokens, with gradient."""
    assert stats.base_kl is not None
    return torch.where(stats.mask, stats.base_kl, 0).sum()
