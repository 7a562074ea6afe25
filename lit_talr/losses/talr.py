"""Token-adaptive loss reweighting, the paper's method."""

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.losses.base import LossStrategy, TokenStats, sequence_means
from lit_talr.utils.collectives import gather_over_ranks, is_rank_zero, sum_over_ranks
from lit_talr.utils.errors import check_in

logger = logging.getLogger(__name__)
SMALLEST_TEMPERATURE = 1e-6
Statistic = Literal["sequence", "token"]


def talr_weights(
    nll: Tensor,
    mask: Tensor,
    *,
    sequence_ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    floor: float = 0.01,
    statistic: Statistic = "sequence",
) -> Tensor:
    """Gives each supervised token the weight ``max(exp(-nll / temperature), floor)``; the loss is the sum of weight times NLL over their number.

    The formula and its source are those of ``TALR``, which calls this function. It needs torch alone, keeps no state and sees one micro-batch.

    Args:
        nll: ``[B, T]`` NLL of each token in nats, at least 0 (not log-probabilities); float32 or float64. Values outside the mask do not matter.
        mask: ``[B, T]`` bool, True where supervised.
        sequence_ids: ``[B, T]`` int64 in [0, B * T), the sequence of each token, for rows that hold several; by default each row is one sequence.
        temperature: In nats, above 0 (a scalar tensor is not checked); left out, the lower median that ``statistic`` names, at least 1e-6.
        floor: Least weight of a supervised token, in [0, 1].
        statistic: The median is taken over the mean NLL of each ``sequence``, or over the NLL of each ``token``.

    Returns:
        ``[B, T]`` weights of the dtype of ``nll``, detached, 0 outside the mask.

    Raises:
        ValueError: For shapes or dtypes that do not fit together, and an option out of range.
    """
    check_options(None if isinstance(temperature, Tensor) else temperature, floor, statistic)
    check_tokens(nll, mask, sequence_ids)
    nll = nll.detach()
    if temperature is None:
        ids = torch.arange(len(nll), device=nll.device)[:, None].expand(nll.shape) if sequence_ids is None else sequence_ids
        temperature = batch_median(TokenStats(nll, mask, ids), statistic).nan_to_num(1.0).clamp(min=SMALLEST_TEMPERATURE)
    elif not isinstance(temperature, Tensor):
        temperature = nll.new_tensor(temperature)
    return torch.where(mask, (-nll / temperature).exp().clamp(min=floor), 0)


def talr_loss(
    outputs: Mapping[str, Any],
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    temperature: float | None = None,
    floor: float = 0.01,
    statistic: Statistic = "sequence",
) -> Tensor:
    """TALR's loss from a model's logits, as ``compute_loss_func`` of transformers' ``Trainer`` (``functools.partial`` sets options).

    ``sum(weight * nll) / num_items_in_batch``, with the weights of ``talr_weights`` for one micro-batch. The NLL is computed in float32 from all logits.
    The boundaries of packed rows cannot be seen here: each row counts as one sequence.

    Args:
        outputs: What the model returned; its ``logits`` are ``[B, T, V]``, and position t predicts token t + 1.
        labels: ``[B, T]`` int64 token ids, -100 where unsupervised, not yet shifted.
        num_items_in_batch: Supervised tokens of the whole optimizer step; by default those of this micro-batch.
        temperature: As in ``talr_weights``.
        floor: As in ``talr_weights``.
        statistic: As in ``talr_weights``.

    Returns:
        The scalar loss; carries gradient through the NLL only.

    Raises:
        ValueError: For outputs without logits, shapes that do not fit together, and an option out of range.
    """
    if not isinstance(outputs, Mapping) or "logits" not in outputs:
        raise ValueError(f"`outputs` must hold `logits`, as a model of transformers returns them, got {type(outputs).__name__}.")
    logits = outputs["logits"]
    if labels.dim() != 2 or logits.dim() != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(f"`logits` and `labels` must be [B, T, V] and [B, T], got {list(logits.shape)} and {list(labels.shape)}.")
    targets = labels[:, 1:].to(logits.device)
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    nll = functional.cross_entropy(wide.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE_INDEX)
    mask = targets != IGNORE_INDEX
    weights = talr_weights(nll, mask, temperature=temperature, floor=floor, statistic=statistic)
    return (weights * nll).sum() / (mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


class TALR(LossStrategy):
    """``w = max(exp(-nll / temperature), floor)``, not normalised.

    Unless it is fixed, the temperature is a median (the lower middle one) of the NLLs of the tokens that ``scope`` names.

    Source: Algorithm 1 of "SFT Doesn't Always Hurt General Capabilities" (Lin et al., ICLR 2026, arXiv:2509.20758), as readers report it. The details that
    the paper leaves open are options here.

    Use: the paper's remedy, for a learning rate (5e-6 and above) at which Standard forgets. In the lab it loses on clean rows, and wins, as STM does, where a
    tenth and more of the tokens are very unlikely and need not be learned (docs/when_talr_helps.md); ``lit-talr diagnose`` tells from a short run.

    The gradient of a step does not depend on how it is split into micro-batches and ranks for a fixed temperature and for ``scope: step``, both without
    ``normalize``. It does for ``micro_batch`` and ``ranks``, whose temperature comes from one forward.

    Args:
        temperature: A fixed temperature in nats, above 0 (infinity, ``.inf`` in YAML, gives Standard's weights); left out, the batch's median, at least 1e-6.
        floor: The least weight, in [0, 1], reached at ``nll >= temperature * ln(1 / floor)``. The printed value is not known; 0.01 is that of
            the one public implementation.
        statistic: The median is taken over the mean NLL of each sequence, or over the NLL of each supervised token. Readers of the paper disagree. With
            most tokens at p near 1 the median token's NLL is close to 0, so the default is ``sequence``.
        scope: Which tokens give the median: ``micro_batch``, those of one forward on one rank; ``ranks``, of the forwards that all ranks run at once; ``step``,
            of all micro-batches and ranks of the last optimizer step (in the first step of a run every weight is 1).
        normalize: Divide the weights by their mean over the supervised tokens of the scope (the simplex form of the paper's derivation).
        least_temperature: Ours, not the paper's: a median below this many nats is replaced by it, so that a model that knows most tokens still learns the
            others; 0, the paper's, never replaces it. Needs a temperature that is not fixed.

    Raises:
        ValueError: For a temperature or floor out of range, a least temperature next to a fixed one, and ``normalize`` with ``scope: step``.
    """

    def __init__(
        self,
        temperature: float | None = None,
        floor: float = 0.01,
        statistic: Statistic = "sequence",
        scope: Literal["micro_batch", "ranks", "step"] = "micro_batch",
        normalize: bool = False,
        least_temperature: float = 0.0,
    ) -> None:
        super().__init__()
        check_options(temperature, floor, statistic)
        check_in("least_temperature", least_temperature, "[0, inf)")
        if least_temperature and temperature is not None:
            raise ValueError(
                f"`least_temperature` bounds the median, which a fixed `temperature` replaces, got {least_temperature} and {temperature}; leave one out."
            )
        if normalize and scope == "step":
            raise ValueError(
                "`normalize` needs the weights of the tokens it divides, which `scope: step` has not seen yet; use `scope: ranks` or leave it off."
            )
        self.temperature = temperature
        self.floor = floor
        self.statistic: Statistic = statistic
        self.scope = scope
        self.normalize = normalize
        self.least_temperature = least_temperature
        self.least_weight = None if normalize else floor
        self.batching_invariant = scope == "step" or (temperature is not None and not normalize)
        self.step_temperature: Tensor | None = None  # of the last finished step; not a buffer: engines cast those to bf16
        self._median: Tensor | None = None  # of the last micro-batch
        self._step_values: list[Tensor] = []  # what the median of the open step is taken over (scope: step)
        self._medians: Tensor | None = None  # [2], sum and number of the open step's medians, for the log
        self._logged: Tensor | None = None

    def weights(self, stats: TokenStats) -> Tensor:
        temperature = self.batch_temperature(stats)
        weights = talr_weights(stats.nll, stats.mask, temperature=temperature, floor=self.floor)
        if self.normalize:
            total = torch.stack([weights.sum(), stats.mask.sum().to(weights.dtype)])
            total = sum_over_ranks(total) if self.scope == "ranks" else total
            weights = weights * (total[1] / total[0].clamp(min=torch.finfo(weights.dtype).tiny))
        return weights

    def batch_temperature(self, stats: TokenStats) -> Tensor:
        """The scalar temperature of this micro-batch, detached; infinite in the first step of ``scope: step``."""
        if self.temperature is not None:
            return stats.nll.new_tensor(self.temperature)
        if self.scope == "step":
            return stats.nll.new_tensor(math.inf) if self.step_temperature is None else self.step_temperature.to(stats.nll)
        self._median = batch_median(stats, self.statistic, gather=self.scope == "ranks").clamp(min=self.least_temperature)
        return self._median.nan_to_num(1.0).clamp(min=SMALLEST_TEMPERATURE)

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        if self.temperature is None and self.scope == "step":
            if self.step_temperature is None and not self._step_values and is_rank_zero():
                logger.info("TALR `scope: step`: every weight is 1 until the first optimizer step has ended.")
            self._step_values.append(median_values(stats, self.statistic))
        elif self._median is not None:
            median = torch.stack([self._median.nan_to_num(0.0), (~self._median.isnan()).to(self._median.dtype)])
            self._medians = median if self._medians is None else self._medians + median

    def step_end(self) -> None:
        if self._step_values:
            values = torch.cat(self._step_values)
            self._step_values.clear()
            median = lower_median(gather_over_ranks(values))
            before = median.new_tensor(math.inf) if self.step_temperature is None else self.step_temperature.to(median)
            # A step that is not a number (it is skipped, or ends the run) teaches nothing: the temperature stays.
            self.step_temperature = self._logged = torch.where(median.isnan(), before, median.clamp(min=max(self.least_temperature, SMALLEST_TEMPERATURE)))
        elif self._medians is not None:
            total, count = sum_over_ranks(self._medians)
            self._medians = None
            self._logged = total / count

    def metrics(self) -> dict[str, Tensor]:
        """``talr/temperature``: the mean over the step's micro-batches, or for ``scope: step`` the one that the next step will use."""
        return {} if self._logged is None else {"talr/temperature": self._logged}

    def get_extra_state(self) -> dict[str, Any]:
        return {"step_temperature": None if self.step_temperature is None else float(self.step_temperature)}  # FSDP2 can load no tensor where there is none yet

    def set_extra_state(self, state: dict[str, Any]) -> None:
        value = state["step_temperature"]
        self.step_temperature = None if value is None else torch.tensor(float(value), dtype=torch.float64)  # either precision, exactly


def check_options(temperature: float | None, floor: float, statistic: str) -> None:
    """Refuses options out of range."""
    if temperature is not None and not temperature > 0:
        raise ValueError(f"`temperature` must be above 0, got {temperature}; leave it out to take the median of each batch.")
    check_in("floor", floor, "[0, 1]")
    if statistic not in ("sequence", "token"):
        raise ValueError(f"`statistic` must be sequence or token, got {statistic!r}.")


def check_tokens(nll: Tensor, mask: Tensor, sequence_ids: Tensor | None) -> None:
    """Refuses shapes and dtypes that do not fit together."""
    shapes = [list(tensor.shape) for tensor in (nll, mask, sequence_ids) if tensor is not None]
    if nll.dim() != 2 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"`nll`, `mask` and `sequence_ids` must all be [B, T], got {', '.join(map(str, shapes))}.")
    if nll.dtype not in (torch.float32, torch.float64) or mask.dtype != torch.bool:
        raise ValueError(f"`nll` must be float32 or float64 and `mask` bool, got {nll.dtype} and {mask.dtype}; cast them.")
    if sequence_ids is not None and sequence_ids.dtype != torch.int64:
        raise ValueError(f"`sequence_ids` must be int64, got {sequence_ids.dtype}; cast them.")


def batch_median(stats: TokenStats, statistic: Statistic, gather: bool = False) -> Tensor:
    """The scalar median of a micro-batch, with ``gather`` over all ranks; NaN where nothing is supervised. Detached."""
    values = median_values(stats, statistic)
    return lower_median(gather_over_ranks(values) if gather else values)


def median_values(stats: TokenStats, statistic: Statistic) -> Tensor:
    """The numbers that the median is taken over, one-dimensional, NaN where they do not count (so that no shape depends on the data)."""
    nll = stats.nll.detach()
    if statistic == "token":
        return torch.where(stats.mask, nll, torch.nan).flatten()
    return sequence_means(nll, stats)


def lower_median(values: Tensor) -> Tensor:
    """The lower middle value among those that are not NaN; NaN where there is none."""
    return values.nanmedian() if values.numel() else values.new_tensor(torch.nan)
