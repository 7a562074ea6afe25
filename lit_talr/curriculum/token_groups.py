"""Sums over tokens, grouped by their probability, and the rows of a table that they give."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_talr.utils.files import write_bytes

FIELDS = ("num_tokens", "probability", "nll", "weight", "weighted_nll", "above", "at_floor")
"""What is summed over the tokens of a group; ``above`` and ``at_floor`` count them."""
Row = dict[str, Any]


def token_sums(
    group: Tensor, num_groups: int, nll: Tensor, mask: Tensor, threshold: float, weights: Tensor | None = None, least_weight: float | None = None
) -> Tensor:
    """``[num_groups, len(FIELDS)]`` float64 sums over the tokens of each group, without gradient or host synchronisation.

    Args:
        group: int64, the group of each token, in ``[0, num_groups)``; of any shape, which those below share.
        num_groups: Number of groups.
        nll: Nats.
        mask: bool, the tokens that count.
        threshold: Tokens of a higher probability count as ``above``.
        weights: Of the loss strategy; 0 where left out.
        least_weight: Tokens with no higher weight count as ``at_floor``.
    """
    probability = probabilities(nll)
    weights = torch.zeros_like(nll) if weights is None else weights
    at_floor = torch.zeros_like(mask) if least_weight is None else weights <= least_weight
    columns = torch.stack([torch.ones_like(nll), probability, nll, weights, weights * nll, probability > threshold, at_floor], dim=-1).detach()
    values = torch.where(mask.unsqueeze(-1), columns, 0).flatten(end_dim=-2).double()
    return values.new_zeros(num_groups, len(FIELDS)).index_add_(0, group.flatten(), values)


def probabilities(nll: Tensor) -> Tensor:
    """``exp(-nll)`` in the dtype of the NLL, without gradient; 0 where that is not a number."""
    return (-nll.detach()).exp().nan_to_num(0.0)


def bins(nll: Tensor, num_bins: int) -> Tensor:
    """Which of the equally wide parts of [0, 1] the probability of each token lies in; the last part holds 1."""
    return (probabilities(nll) * num_bins).long().clamp(0, num_bins - 1)


def bin_edges(num_bins: int) -> list[float]:
    """The ``num_bins + 1`` bounds of the parts that ``bins`` counts."""
    return [index / num_bins for index in range(num_bins + 1)]


def cohorts(nll: Tensor, edges: Sequence[float]) -> Tensor:
    """Which of the parts ``[0, edges[0])``, ``[edges[0], edges[1])``, ..., ``[edges[-1], 1]`` the probability of each token lies in."""
    return torch.bucketize(probabilities(nll), torch.tensor(edges, dtype=nll.dtype, device=nll.device), right=True)


def group_rows(sums: Tensor, group: str, edges: Sequence[float], weighted: bool = False, floored: bool = False) -> list[Row]:
    """A row for each group: its bounds, number of tokens and their means; None where there is nothing to take the mean of.

    Args:
        sums: ``[num_groups, len(FIELDS)]`` over all ranks.
        group: What kind of group it is.
        edges: ``num_groups + 1`` bounds.
        weighted: Whether the tokens had weights.
        floored: Whether these had a least value.
    """
    rows = []
    for (lower, upper), (count, *totals) in zip(pairwise(edges), sums.tolist(), strict=True):
        mean: Row = {name: total / count if count else None for name, total in zip(FIELDS[1:], totals, strict=True)}
        row = {"group": group, "lower": lower, "upper": upper, "num_tokens": int(count), "probability": mean["probability"], "nll": mean["nll"]}
        row |= {"weight": mean["weight"], "weighted_nll": mean["weighted_nll"]} if weighted else {"weight": None, "weighted_nll": None}
        rows.append({**row, "share_above": mean["above"], "share_at_floor": mean["at_floor"] if floored else None})
    return rows


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """The rows as a Parquet file, replaced in one move."""
    import pandas as pd  # half a second at start-up

    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())
