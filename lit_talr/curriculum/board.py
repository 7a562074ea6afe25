"""Scalars for every logger, and histograms, figures and a table for those that show them, from the rows of ``token_probability.parquet``."""

from collections.abc import Sequence
from typing import Any

from lit_talr.curriculum.difficulty import GROUPS, still_hard_share
from lit_talr.curriculum.show import cohort_figure, hardest_page, loss_figure, span
from lit_talr.curriculum.token_groups import Row
from lit_talr.utils.boards import Board, Histogram, TensorBoard


def epoch_scalars(rows: Sequence[Row], threshold: float) -> dict[str, float]:
    """An epoch's rows in single numbers."""
    scalars: dict[str, float | None] = {}
    for row in rows:
        if row["group"] == "cohort":
            scalars[f"cohort/{span(row)}"] = row["probability"]
        elif row["group"] == "all":
            scalars[f"{row['set']}/share_above_{threshold:g}"] = row["share_above"]
            if row["set"] == "train":
                scalars |= {"train/epoch_nll": row["nll"], "train/mean_weight": row["weight"], "train/share_at_floor": row["share_at_floor"]}
            else:
                scalars[f"{row['set']}/nll"] = row["nll"]
        elif row["group"] in GROUPS and row["num_tokens"]:
            scalars |= {f"{row['set']}/{row['group']}_{name}": row[name] for name in ("nll", "gradient_share")}
    scalars |= {f"{name}/still_hard": still_hard_share(rows, name) for name in dict.fromkeys(row["set"] for row in rows)}
    return {name: value for name, value in scalars.items() if value is not None}


def add_epoch(board: Board, all_rows: Sequence[Row], epoch: int, threshold: float) -> None:
    """Show a board an epoch's views, from the rows of all epochs so far."""
    rows = [row for row in all_rows if row["epoch"] == epoch]
    if epoch == 0 and isinstance(board, TensorBoard):
        spans = [span(row) for row in rows if row["group"] == "cohort"]  # also empty ones: runs of the same page share their charts
        board.add_charts(chart_layout(spans, threshold))
    for name in dict.fromkeys(row["set"] for row in rows):
        board.add_histogram(f"probability/{name}", histogram([row for row in rows if (row["set"], row["group"]) == (name, "bin")]), epoch)
    if epoch:
        by_bin = [row for row in rows if (row["set"], row["group"]) == ("train", "bin")]
        board.add_figure("curriculum/loss_by_probability", loss_figure(by_bin, f"Where the loss of epoch {epoch} comes from"), epoch)
        board.add_figure("curriculum/cohorts", cohort_figure([row for row in all_rows if row["group"] == "cohort"]), epoch)
    if hardest := [row for row in rows if row["group"] == "hardest"]:
        board.add_table("hardest_tokens", [hardest_token(row) for row in hardest], hardest_page(hardest), epoch)


def chart_layout(cohort_spans: Sequence[str], threshold: float) -> dict[str, dict[str, list[Any]]]:
    """The charts of TensorBoard's page "Curriculum", each with its scalars."""
    charts = {
        f"tokens with p > {threshold:g}": [f"train/share_above_{threshold:g}", f"probe/share_above_{threshold:g}"],
        "cohorts by base probability: mean probability": [f"cohort/{name}" for name in cohort_spans],
        "mean weight, and tokens at its floor": ["train/mean_weight", "train/share_at_floor"],
        "NLL": ["train/epoch_nll", "probe/nll", "held_out/nll", "val/nll"],
        "NLL by difficulty": [f"{name}/{group}_nll" for name in ("probe", "held_out") for group in GROUPS],
        "share of the gradient by difficulty": [f"probe/{group}_gradient_share" for group in GROUPS],
        "hard tokens that are still hard": ["probe/still_hard", "held_out/still_hard"],
        "temperature": ["talr/temperature"],
    }
    return {"Curriculum": {title: ["Multiline", tags] for title, tags in charts.items()}}


def histogram(rows: Sequence[Row]) -> Histogram:
    """The histogram in the bins that were counted, so that its counts are exact."""
    return Histogram([rows[0]["lower"], *(row["upper"] for row in rows)], [row["num_tokens"] for row in rows], [row["probability"] or 0.0 for row in rows])


def hardest_token(row: Row) -> Row:
    """The columns of a hard token that are shown."""
    names = {"p": "probability", "base p": "start_probability", "before": "before", "token": "token", "after": "after"}
    return {shown: row[name] for shown, name in names.items()}
