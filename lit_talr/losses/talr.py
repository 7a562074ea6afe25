"""Token-adaptive loss reweighting, the paper's method."""

import logging
import math
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats, sequence_means
from lit_talr.utils.collectives import gather_over_ranks, sum_over_ranks

logger = logging.getLogger(__name__)
SMALLEST_TEMPERATURE = 1e-6


class TALR(LossStrategy):
    """``w = max(exp(-nll / temperature), floor)``, not normalised.

    Unless it is fixed, the temperature is a median (the lower middle one) of the NLLs of the present batch.

    Source: Algorithm 1 of "SFT Doesn't Always Hurt General Capabilities" (Lin et al., ICLR 2026, arXiv:2509.20758), as readers report it. What the
    paper leaves open is an option here.

    Use: the paper's remedy, for a domain with hard tokens at a learning rate (5e-6 and above) where Standard forgets.

    The gradient of a step is independent of its layout (micro-batches and ranks) for a fixed temperature and for ``scope: step``, both
    without ``normalize``; it is not for ``micro_batch`` and ``ranks``, whose temperature is that of what one forward sees.

    Args:
        temperature: A fixed temperature in nats, above 0 (``.inf`` gives Standard's weights); left out, the batch's median, at least 1e-6.
        floor: The least weight, in [0, 1], reached at ``nll >= temperature * ln(1 / floor)``. The printed value is not known; 0.01 is that of
            the one public implementation.
        statistic: What the median is taken of: the mean NLL of each sequence with supervised tokens, or the NLL of each supervised token.
            Readers of the paper disagree; with most tokens at p near 1 the median token's NLL is close to 0, so the default is ``sequence``.
        scope: Which tokens give the median: ``micro_batch``, those of one forward on one rank; ``ranks``, of one micro-step on all ranks; ``step``,
            of all micro-batches and ranks of the last optimizer step (in the first step of a run every weight is 1).
        normalize: Divide the weights by their mean over the supervised tokens of the scope (the simplex form of the paper's derivation).

    Raises:
        ValueError: For a temperature or floor out of range, and for ``normalize`` with ``scope: step``.
    """

    def __init__(
        self,
        temperature: float | None = None,
        floor: float = 0.01,
        statistic: Literal["sequence", "token"] = "sequence",
        scope: Literal["micro_batch", "ranks", "step"] = "micro_batch",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {temperature}; leave it out to take the median of each batch.")
        if not 0 <= floor <= 1:
            raise ValueError(f"`floor` must lie in [0, 1], got {floor}.")
        if normalize and scope == "step":
            raise ValueError(
                "`normalize` needs the weights of the tokens it divides, which `scope: step` has not seen yet; use `scope: ranks` or leave it off."
            )
        self.temperature = temperature
        self.floor = floor
        self.statistic = statistic
        self.scope = scope
        self.normalize = normalize
        self.least_weight = None if normalize else floor
        self.batching_invariant = scope == "step" or (temperature is not None and not normalize)
        self.step_temperature: Tensor | None = None  # of the last finished step; float32, not a buffer: engines cast those to bf16
        self._step_values: list[Tensor] = []  # what the medians of the open step are taken of (scope: step)
        self._used: list[Tensor] = []  # the temperatures of the open step's micro-batches, for the log
        self._logged: Tensor | None = None

    def weights(self, stats: TokenStats) -> Tensor:
        nll = stats.nll.detach()
        temperature = self.batch_temperature(stats)
        weights = (-nll / temperature).exp().clamp(min=self.floor)
        if self.normalize:
            total = torch.stack([(weights * stats.mask).sum(), stats.mask.sum().to(weights.dtype)])
            total = sum_over_ranks(total) if self.scope == "ranks" else total
            weights = weights * (total[1] / total[0].clamp(min=torch.finfo(weights.dtype).tiny))
        return weights

    def batch_temperature(self, stats: TokenStats) -> Tensor:
        """The scalar temperature of this micro-batch, detached; infinite in the first step of ``scope: step``."""
        if self.temperature is not None:
            return stats.nll.new_tensor(self.temperature)
        values = statistic_values(stats, self.statistic)
        if self.scope == "step":
            self._step_values.append(values)
            if self.step_temperature is None:
                if len(self._step_values) == 1:
                    rank_zero_only(logger.info)("TALR `scope: step`: every weight is 1 until the first optimizer step has ended.")
                return stats.nll.new_tensor(math.inf)
            return self.step_temperature.to(stats.nll)
        if self.scope == "ranks":
            values = gather_over_ranks(values)
        temperature = lower_median(values)
        self._used.append(torch.stack([temperature.nan_to_num(0.0), (~temperature.isnan()).to(temperature.dtype)]))
        return temperature.nan_to_num(1.0).clamp(min=SMALLEST_TEMPERATURE)

    def step_end(self) -> None:
        if self._step_values:
            values = torch.cat(self._step_values)
            self._step_values.clear()
            median = lower_median(gather_over_ranks(values))
            before = median.new_tensor(math.inf) if self.step_temperature is None else self.step_temperature.to(median)
            # Of a step without a number (which is skipped, or ends the run) nothing is learned: the temperature stays.
            self.step_temperature = self._logged = torch.where(median.isnan(), before, median.clamp(min=SMALLEST_TEMPERATURE))
        elif self._used:
            total, count = sum_over_ranks(torch.stack(self._used).sum(0))
            self._used.clear()
            self._logged = total / count

    def metrics(self) -> dict[str, Tensor]:
        """``talr/temperature``: the mean over the step's micro-batches, or for ``scope: step`` the one that the next step will use."""
        return {} if self._logged is None else {"talr/temperature": self._logged}

    def get_extra_state(self) -> dict[str, Any]:
        return {"step_temperature": None if self.step_temperature is None else float(self.step_temperature)}  # FSDP2 can load no tensor where there is none yet

    def set_extra_state(self, state: dict[str, Any]) -> None:
        value = state["step_temperature"]
        self.step_temperature = None if value is None else torch.tensor(float(value), dtype=torch.float64)  # of either precision, exactly


def statistic_values(stats: TokenStats, statistic: Literal["sequence", "token"]) -> Tensor:
    """The numbers whose median is the temperature, one-dimensional, NaN in the places that do not count (so that no shape depends on the data)."""
    nll = stats.nll.detach()
    if statistic == "token":
        return torch.where(stats.mask, nll, torch.nan).flatten()
    return sequence_means(nll, stats)


def lower_median(values: Tensor) -> Tensor:
    """The lower middle value among those that are not NaN; NaN where there is none."""
    return values.nanmedian() if values.numel() else values.new_tensor(torch.nan)
