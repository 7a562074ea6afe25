"""Figures, a page of text and a table in the terminal from the rows of ``token_probability.parquet``."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from lit_talr.curriculum.difficulty import GROUPS, still_hard_share
from lit_talr.curriculum.token_groups import Row
from lit_talr.utils.errors import check_least, first_line
from lit_talr.utils.files import run_around

if TYPE_CHECKING:
    import pandas as pd  # it and the next take half a second to import, so they are imported where they are used
    from matplotlib.figure import Figure


def span(row: Row) -> str:
    """The bounds of a group, such as ``0.01-0.05``."""
    return f"{row['lower']:g}-{row['upper']:g}"


def cohort_figure(rows: Sequence[Row]) -> "Figure":
    """Draw the mean probability of each cohort by epoch, from the rows of all epochs."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    spans = dict.fromkeys(span(row) for row in rows if row["num_tokens"])
    for number, name in enumerate(spans):
        cohort = [row for row in rows if span(row) == name]
        colour = colormaps["viridis"](0.9 * number / max(1, len(spans) - 1))
        label = f"{name} ({cohort[0]['num_tokens']:,} tokens)"
        axes.plot([row["epoch"] for row in cohort], [row["probability"] for row in cohort], "o-", markersize=4, color=colour, label=label)
    axes.set(xlabel="epoch (0: the base model)", ylabel="mean probability", ylim=(-0.02, 1.02), title="Probe tokens by their base probability")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", title="probability under the base model", title_fontsize="small")
    return figure


def loss_figure(rows: Sequence[Row], title: str) -> "Figure":
    """Draw each bin's share of the tokens, of the loss and of the weighted loss, from one epoch's rows."""
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
    axes.legend(title="share of")
    return figure


def hardest_page(rows: Sequence[Row]) -> str:
    """The hardest tokens as a Markdown table, with all texts escaped."""
    lines = ["| p | base p | token in its context |", "|---|---|---|"]
    lines += [
        f"| {row['probability']:.1e} | {row['start_probability']:.1e} | {literal(row['before'])}**{marked(row['token'])}**{literal(row['after'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def marked(token: str) -> str:
    """A token for bold type, with visible blanks at its edges, since Markdown has no bold blanks."""
    inner = token.strip(" ")
    left = len(token) - len(token.lstrip(" "))
    return "␣" * left + literal(inner) + "␣" * (len(token) - left - len(inner))


def literal(text: str) -> str:
    """A text that Markdown and HTML show literally, with arrows for line breaks and tabs; every other symbol becomes an entity."""
    visible = text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(character if character.isalnum() or character in " ⏎⇥" else f"&#{ord(character)};" for character in visible)


LEGEND = """
train: tokens as training saw them; probe: fixed examples after the epoch; held_out: training rows that were set aside
p0 a-b: mean probability of the probe's tokens whose base probability is between a and b"""
LEGEND_OF_GROUPS = """median: of the sequences' mean NLL, where TALR's temperature would be; still hard: share of the tokens with p0 < 0.2 that have p < 0.2 now
hard: p0 < 0.2, easy: p0 > 0.95, between, each without noise; NLL: their mean; grad: their share of the sum of weight x (1 - p)"""


def curriculum(folder: Path, every: int = 1) -> None:
    """Print how probable the supervised tokens of each run became, epoch by epoch, as a Markdown table.

    Args:
        folder: A run's folder, or one that holds several.
        every: Print every so many epochs only, at least 1, and the last one.

    Raises:
        ValueError: For a damaged file, and if no run in the folder has been watched by ``TokenProbability``.
    """
    import pandas as pd

    check_least("every", every, 1)
    tables: dict[Path, pd.DataFrame] = {}
    for path in sorted(folder.glob("**/token_probability.parquet")):
        try:
            tables[path.parent] = pd.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's are ValueErrors
            raise ValueError(f"{path} is damaged ({first_line(error)}); restore it from a copy, or move it away.") from error
    if not tables:
        way_out = run_around(folder, "token_probability.parquet") or "; name the folder of a run whose callbacks have TokenProbability."
        raise ValueError(f"{folder}: {'holds no token_probability.parquet' if folder.is_dir() else 'is no folder'}{way_out}")
    for run, table in tables.items():
        console = Console(width=160)
        console.print(f"\n{run}\n", markup=False, highlight=False, soft_wrap=True)
        console.print(epoch_table(table, every))
        if has_groups(table):
            console.print(group_table(table, every))
    legends = [LEGEND, *([LEGEND_OF_GROUPS] if any(map(has_groups, tables.values())) else [])]
    Console(soft_wrap=True).print(*legends, sep="\n", highlight=False)


def has_groups(statistics: "pd.DataFrame") -> bool:
    """Tells whether the tokens were grouped by difficulty; earlier versions did not."""
    return bool(statistics["group"].isin(GROUPS).any())


def epoch_table(statistics: "pd.DataFrame", every: int = 1) -> Table:
    """Shares and mean probabilities: a line for each epoch, and a column for each cohort that has tokens, with their number in the first line."""
    table = Table(box=box.MARKDOWN)
    cohorts = statistics[(statistics["group"] == "cohort") & (statistics["num_tokens"] > 0) & (statistics["epoch"] == 0)].to_dict("records")
    easy = f"p>{statistics['threshold'].iloc[0]:g}"
    columns = ["epoch", f"train {easy}", "at floor", "weight", "temp.", f"probe {easy}", "NLL", *(f"p0 {span(row)}" for row in cohorts)]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("tokens", *[""] * 6, *(f"{row['num_tokens']:,}" for row in cohorts))
    last = statistics["epoch"].max()
    for epoch, rows in statistics.groupby("epoch"):
        if epoch % every == 0 or epoch == last:
            table.add_row(str(epoch), *cells(rows.to_dict("records")))
    return table


def group_table(statistics: "pd.DataFrame", every: int = 1) -> Table:
    """Tokens by difficulty: a line for each set and epoch, and columns for each group that has tokens, with their number in the first line of a set."""
    table = Table(box=box.MARKDOWN)
    of_groups = statistics[statistics["group"].isin(GROUPS) & (statistics["num_tokens"] > 0)]
    groups = [group for group in GROUPS if (of_groups["group"] == group).any()]
    for column in ("set", "epoch", "median", "still hard", *(f"{group} {what}" for group in groups for what in ("NLL", "grad"))):
        table.add_column(column, justify="right", no_wrap=True)
    last = statistics["epoch"].max()
    for name in dict.fromkeys(of_groups["set"]):
        for epoch, part in statistics[statistics["set"] == name].groupby("epoch"):
            rows = {row["group"]: row for row in part.to_dict("records")}
            if epoch == 0:
                table.add_row(name, "tokens", "", "", *(cell for group in groups for cell in (f"{rows[group]['num_tokens']:,}", "")))
            if epoch % every == 0 or epoch == last:
                values = [rows["all"]["sequence_median"], still_hard_share(list(rows.values()), name)]
                values += [rows[group][column] for group in groups for column in ("nll", "gradient_share")]
                table.add_row(name, str(epoch), *map(cell_text, values))
    return table


def cells(rows: Sequence[Row]) -> Iterator[str]:
    """Cells of one epoch's line, without its number."""
    by_set = {row["set"]: row for row in rows if row["group"] == "all"}
    train, probe = by_set.get("train", {}), by_set["probe"]
    values = [train.get(name) for name in ("share_above", "share_at_floor", "weight", "talr/temperature")]
    values += [probe["share_above"], probe["nll"]]
    values += [row["probability"] for row in rows if row["group"] == "cohort" and row["num_tokens"]]
    return map(cell_text, values)


def cell_text(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
