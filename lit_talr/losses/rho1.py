"""Selective language modelling: only the tokens with the largest excess loss."""

import math
from typing import Literal

import torch
from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class Rho1(LossStrategy):
    """``w = n / kept`` for the ``share`` of n tokens with the largest excess loss, ``nll - nll_0``, else 0; nll_0 is the NLL under the base model.

    ``ceil(share * n)`` of n supervised tokens are kept, and those that tie for the last place. The factor n / kept makes the loss their mean.

    Source: Lin et al., "Rho-1: Not All Tokens Are What You Need", arXiv:2404.07965. There the reference model is trained on the best data, so that
    the excess is the loss that can still be learned. Here it is the base model, as for all remedies: the excess is the loss that training has added. In
    the first step all tokens tie, or rounding chooses among them.

    Use: to study it; with the base model as the reference it is not known to help.

    The gradient of a step does not depend on how it is split with ``scope: sequence`` only, and only where rounding does not change the choice. In bf16 it
    does in the first steps, where excesses are as small as rounding.

    Args:
        share: Part of the tokens that is kept, in (0, 1]; 1 is Standard. Rho-1 kept 0.6 with its smaller model and 0.7 with its larger one.
        scope: Tokens that compete: all of one forward on one rank (``micro_batch``, as published), or those of each example (``sequence``).

    Raises:
        ValueError: For a share out of range; at start-up from random weights.
    """

    needs = frozenset({"base_nll"})

    def __init__(self, share: float = 0.6, scope: Literal["micro_batch", "sequence"] = "micro_batch") -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"`share` must lie in (0, 1], got {share}.")
        self.share = share
        self.scope = scope
        self.batching_invariant = scope == "sequence" or share == 1

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        excess = torch.where(stats.mask, stats.nll.detach() - stats.base_nll, -math.inf).flatten()
        groups = stats.sequence_ids.flatten() if self.scope == "sequence" else torch.zeros_like(stats.sequence_ids).flatten()
        groups = torch.where(stats.mask.flatten(), groups, excess.numel())  # the unsupervised come last
        order = excess.argsort(descending=True, stable=True)
        order = order[groups[order].argsort(stable=True)]  # group after group, each from its largest excess down
        count = torch.zeros(excess.numel() + 1, dtype=torch.long, device=excess.device).scatter_add_(0, groups, torch.ones_like(groups))
        start = count.cumsum(0) - count
        kept = (self.share * count.double() - 1e-9).ceil().long().clamp(min=1)  # 0.6 * 5 is a little above 3
        last = excess[order[(start + kept - 1).clamp(max=excess.numel() - 1)]]  # the least excess that each group keeps
        chosen = excess >= last[groups]
        num_chosen = torch.zeros_like(count).scatter_add_(0, groups, chosen.long()).clamp(min=1)
        return (chosen * (count.to(excess.dtype) / num_chosen)[groups]).view_as(stats.nll)
