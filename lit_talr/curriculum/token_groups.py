"""Statistics of tokens, grouped by their probability, and the rows of a table that they become."""

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_talr.utils.files import write_bytes

if TYPE_CHECKING:
    from lit_talr.data.encoded import EncodedExamples  # brings transformers, which a report need not wait for

FIELDS = ("num_tokens", "probability", "nll", "weight", "weighted_nll", "share_above", "share_at_floor")
"""Sums over the tokens of a group, which become means in its row; the first and the last two count tokens."""
CONTEXT = 24
"""Tokens shown before a hard one; a quarter as many after it."""
Row = dict[str, Any]


def token_sums(
    group: Tensor, num_groups: int, nll: Tensor, mask: Tensor, threshold: float, weights: Tensor | None = None, least_weight: Tensor | float | None = None
) -> Tensor:
    """``[num_groups, len(FIELDS)]`` float64 sums over the tokens of each group, without gradient or device synchronization.

    Args:
        group: int64, the group of each token, in ``[0, num_groups)``; any shape, the same as that of the tensors below.
        num_groups: Number of groups.
        nll: NLL of each token, in nats.
        mask: bool, the tokens that count.
        threshold: Tokens of a higher probability count in ``share_above``.
        weights: Weights of the loss strategy; 0 where left out.
        least_weight: Tokens with no higher weight count in ``share_at_floor``; one for all, or one for each.
    """
    probability = probabilities(nll)
    weights = torch.zeros_like(nll) if weights is None else weights
    at_floor = torch.zeros_like(mask) if least_weight is None else weights <= least_weight
    columns = torch.stack([torch.ones_like(nll), probability, nll, weights, weights * nll, probability > threshold, at_floor], dim=-1).detach()
    values = torch.where(mask.unsqueeze(-1), columns, 0).flatten(end_dim=-2).double()
    return values.new_zeros(num_groups, len(FIELDS)).index_add_(0, group.flatten(), values)


def probabilities(nll: Tensor) -> Tensor:
    """``exp(-nll)`` in the dtype of the NLL, without gradient; 0 where it is not a number."""
    return (-nll.detach()).exp().nan_to_num(0.0)


def bins(nll: Tensor, num_bins: int) -> Tensor:
    """Index of the equally wide part of [0, 1] that holds the probability of each token; the last part holds 1."""
    return (probabilities(nll) * num_bins).long().clamp(0, num_bins - 1)


def bin_edges(num_bins: int) -> list[float]:
    """The ``num_bins + 1`` bounds of the parts of ``bins``."""
    return [index / num_bins for index in range(num_bins + 1)]


def cohorts(nll: Tensor, edges: Sequence[float]) -> Tensor:
    """Index of the part that holds the probability of each token: ``[0, edges[0])``, ``[edges[0], edges[1])``, ..., ``[edges[-1], 1]``."""
    return torch.bucketize(probabilities(nll), torch.tensor(edges, dtype=nll.dtype, device=nll.device), right=True)


def group_rows(sums: Tensor, group: str, edges: Sequence[float], weighted: bool = False, floored: bool = False) -> list[Row]:
    """A row for each group: its bounds, its number of tokens, and their means, which are None for a group without tokens.

    Args:
        sums: ``[num_groups, len(FIELDS)]`` over all ranks.
        group: Kind of the groups.
        edges: ``num_groups + 1`` bounds.
        weighted: Whether the tokens had weights.
        floored: Whether the weights have a least value.
    """
    unknown = {*(() if weighted else ("weight", "weighted_nll")), *(() if floored else ("share_at_floor",))}
    rows = []
    for (lower, upper), (count, *totals) in zip(pairwise(edges), sums.tolist(), strict=True):
        means = {name: total / count if count and name not in unknown else None for name, total in zip(FIELDS[1:], totals, strict=True)}
        rows.append({"group": group, "lower": lower, "upper": upper, "num_tokens": int(count), **means})
    return rows


def bin_rows(sums: Tensor, weighted: bool = False, floored: bool = False) -> list[Row]:
    """A row for all tokens, and one for each bin of probability; arguments as above."""
    everything = group_rows(sums.sum(0, keepdim=True), "all", [0.0, 1.0], weighted, floored)
    return [*everything, *group_rows(sums, "bin", bin_edges(len(sums)), weighted, floored)]


def hardest_rows(encoded: "EncodedExamples", ids: np.ndarray, nll: Tensor, base_nll: Tensor, number: int, decode: Callable[[list[int]], Any]) -> list[Row]:
    """A row for each of the least probable supervised tokens of some examples, the hardest first, with its text and context.

    ``nll`` and ``base_nll`` hold the NLLs of all their supervised tokens, one example after the other.
    """
    spans = [slice(encoded.offsets[index], encoded.offsets[index + 1]) for index in ids]
    examples = np.repeat(np.arange(len(ids)), encoded.num_supervised[ids])
    positions = np.concatenate([np.flatnonzero(encoded.supervised[span]) for span in spans])
    rows = []
    for index in torch.argsort(nll, descending=True, stable=True)[:number].tolist():
        tokens, position = encoded.tokens[spans[examples[index]]], int(positions[index])
        parts = tokens[max(0, position - CONTEXT) : position], tokens[position : position + 1], tokens[position + 1 : position + 1 + CONTEXT // 4]
        before, token, after = (decode(part.tolist()) for part in parts)
        probability, base_probability = probabilities(torch.stack([nll[index], base_nll[index]])).tolist()
        row = {"group": "hardest", "num_tokens": 1, "probability": probability, "nll": float(nll[index]), "start_probability": base_probability}
        rows.append({**row, "before": before, "token": token, "after": after})
    return rows


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as a Parquet file, which is replaced in one move."""
    import pandas as pd  # takes half a second to import

    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())
