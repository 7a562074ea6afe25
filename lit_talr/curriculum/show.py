"""How a person sees the rows of ``token_probability.parquet``: figures, a page of text, TensorBoard's charts, a table in the terminal."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from lit_talr.curriculum.token_groups import Row

if TYPE_CHECKING:
    import pandas as pd  # like the next: half a second at start-up, which only who needs it has to wait for
    from matplotlib.figure import Figure


def span(row: Row) -> str:
    """The bounds of a group, such as ``0.01-0.05``."""
    return f"{row['lower']:g}-{row['upper']:g}"


def cohort_figure(rows: Sequence[Row]) -> "Figure":
    """Mean probability of each cohort by epoch, from the rows of all epochs."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 4.2), layout="constrained")
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
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", title="probability at the start", title_fontsize="small")
    return figure


def loss_figure(rows: Sequence[Row], title: str) -> "Figure":
    """Where the loss comes from: each bin's share of the tokens, of the loss and of the weighted loss, from one epoch's rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
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
    lines = ["| p | p at the start | token in its context |", "|---|---|---|"]
    lines += [
        f"| {row['probability']:.1e} | {row['start_probability']:.1e} | {literal(row['before'])}**{marked(row['token'])}**{literal(row['after'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def marked(token: str) -> str:
    """A token to be set in bold, whose blanks at the edges are visible, since Markdown has no bold blanks."""
    inner = token.strip(" ")
    left = len(token) - len(token.lstrip(" "))
    return "␣" * left + literal(inner) + "␣" * (len(token) - left - len(inner))


def literal(text: str) -> str:
    """A text that Markdown and HTML show as it is, line breaks as an arrow; every sign that could mean something becomes an entity."""
    visible = text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(sign if sign.isalnum() or sign in " ⏎⇥" else f"&#{ord(sign)};" for sign in visible)


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


LEGEND = """
train: tokens as training saw them; probe: fixed examples after the epoch
p0 a-b: mean probability of the probe's tokens that were between a and b at the start"""


def curriculum(folder: Path, every: int = 1) -> None:
    """Print how the supervised tokens of each run fared, epoch by epoch, as a Markdown table.

    Args:
        folder: Of a run, or of several.
        every: Print every so many epochs only (and the last one).

    Raises:
        ValueError: If no run in the folder has been watched by ``TokenProbability``.
    """
    import pandas as pd

    tables = {path.parent: pd.read_parquet(path) for path in sorted(folder.glob("**/token_probability.parquet"))}
    if not tables:
        raise ValueError(f"{folder}: holds no token_probability.parquet; name the folder of a run whose callbacks have TokenProbability.")
    if every < 1:
        raise ValueError(f"`every` must be at least 1, got {every}.")
    for run, found in tables.items():
        console = Console(width=160)
        console.print(f"\n{run}\n", markup=False, highlight=False, soft_wrap=True)
        console.print(epoch_table(found, every))
    Console(soft_wrap=True).print(LEGEND, highlight=False)


def epoch_table(found: "pd.DataFrame", every: int = 1) -> Table:
    """A line for each epoch, a column for each cohort that has tokens (their number stands in the first line); shares and mean probabilities."""
    table = Table(box=box.MARKDOWN)
    cohorts = found[(found["group"] == "cohort") & (found["num_tokens"] > 0) & (found["epoch"] == 0)].to_dict("records")
    easy = f"p>{found['threshold'].iloc[0]:g}"
    columns = ["epoch", f"train {easy}", "at floor", "weight", "temp.", f"probe {easy}", "NLL", *(f"p0 {span(row)}" for row in cohorts)]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("tokens", *[""] * 6, *(f"{row['num_tokens']:,}" for row in cohorts))
    last = found["epoch"].max()
    for epoch, rows in found.groupby("epoch"):
        if epoch % every == 0 or epoch == last:
            table.add_row(str(epoch), *cells(rows.to_dict("records")))
    return table


def cells(rows: Sequence[Row]) -> Iterator[str]:
    """One epoch's line, without its number."""
    by_set = {row["set"]: row for row in rows if row["group"] == "all"}
    train, probe = by_set.get("train", {}), by_set["probe"]
    values = [train.get(name) for name in ("share_above", "share_at_floor", "weight", "talr/temperature")]
    values += [probe["share_above"], probe["nll"]]
    values += [row["probability"] for row in rows if row["group"] == "cohort" and row["num_tokens"]]
    return ("" if value is None or math.isnan(value) else f"{value:.3f}" for value in values)
