"""Sums over tokens, grouped by their probability, and how a person sees them: rows of a table, figures, a page of text."""

import html
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from lit_talr.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # a third of a second at start-up, which only drawing has to wait for

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
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def span(row: Row) -> str:
    """The bounds of a group, such as ``0.01-0.05``."""
    return f"{row['lower']:g}-{row['upper']:g}"


def cohort_figure(rows: Sequence[Row]) -> "Figure":
    """Mean probability of each cohort by epoch, from the rows of all epochs."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    spans = dict.fromkeys(span(row) for row in rows if row["num_tokens"])
    for number, name in enumerate(spans):
        own = [row for row in rows if span(row) == name]
        colour = colormaps["viridis"](0.9 * number / max(1, len(spans) - 1))
        label = f"{name} ({own[0]['num_tokens']:,} tokens)"
        axes.plot([row["epoch"] for row in own], [row["probability"] for row in own], "o-", markersize=4, color=colour, label=label)
    axes.set(xlabel="epoch (0: the starting model)", ylabel="mean probability", ylim=(-0.02, 1.02), title="Probe tokens by their probability at the start")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", title="probability at the start", title_fontsize="small")
    return figure


def loss_figure(rows: Sequence[Row], title: str) -> "Figure":
    """Where the loss comes from: each bin's share of the tokens, of the loss and of the weighted loss, from one epoch's rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    bars = {"tokens": "num_tokens", "loss": "nll", "weighted loss": "weighted_nll"}
    for number, (name, field) in enumerate(bars.items()):
        totals = [row["num_tokens"] * (1 if field == "num_tokens" else row[field] or 0.0) for row in rows]
        shares = [total / (sum(totals) or 1.0) for total in totals]
        width = (rows[0]["upper"] - rows[0]["lower"]) / 4
        axes.bar([row["lower"] + (number + 1) * width for row in rows], shares, width, label=name, color=("#b0b0b0", "#4c78a8", "#f58518")[number])
    axes.set(xlabel="probability of the token", ylabel="share", xlim=(0, 1), title=title)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(title="share of all")
    return figure


def hardest_page(rows: Sequence[Row]) -> str:
    """The hardest tokens as a Markdown table, whose texts cannot become Markdown or HTML."""
    lines = ["| probability | at the start | token in its context |", "|---|---|---|"]
    lines += [
        f"| {row['probability']:.2g} | {row['start_probability']:.2g} | {literal(row['before'])} **{literal(row['token'])}** {literal(row['after'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def literal(text: str) -> str:
    """A text that Markdown and HTML show as it is, line breaks as an arrow; every sign that could mean something becomes an entity."""
    visible = text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(sign if sign.isalnum() or sign in " ⏎⇥" else f"&#{ord(sign)};" for sign in visible) if visible.strip() else html.escape(repr(visible))


def layout(cohort_spans: Sequence[str], threshold: float) -> dict[str, dict[str, list[Any]]]:
    """TensorBoard's page "Curriculum": which scalars share a chart."""
    charts = {
        f"tokens with p > {threshold:g}": [f"train/share_above_{threshold:g}", f"probe/share_above_{threshold:g}"],
        "cohorts: mean probability by that at the start": [f"cohort/{name}" for name in cohort_spans],
        "mean weight, and tokens at its floor": ["train/mean_weight", "train/share_at_floor"],
        "NLL": ["train/epoch_nll", "probe/nll", "val/nll"],
        "temperature": ["talr/temperature"],
    }
    return {"Curriculum": {title: ["Multiline", tags] for title, tags in charts.items()}}
