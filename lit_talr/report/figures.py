"""Figures fit for a paper, as PNG and PDF; the same tables give the same bytes."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lit_talr.report.statistics import pareto_front
from lit_talr.report.tables import Tables
from lit_talr.report.volumes import blank, pairs, volume_rows
from lit_talr.utils.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # a third of a second at start-up, which only drawing has to wait for
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666", "#8a6d00", "#a5aa99")
"""Okabe and Ito's, which colour-blind readers can tell apart, and some more; the page has the same."""
STYLE: dict[Any, Any] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
STYLE |= {"pdf.fonttype": 42, "savefig.dpi": 200}  # 42: letters stay letters, as journals ask

KINDS: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
"""Of files, and what would make two of them differ."""


def write_figures(tables: Tables, folder: Path) -> None:
    """All figures that the tables have numbers for."""
    from matplotlib import rc_context

    shown = tables.means[tables.means["general"].notna()]
    palette = colours(tables.results)
    with rc_context(STYLE):
        drawn = {
            "tradeoff": tradeoff(shown, palette) if len(shown) else None,
            "rates": rates(tables.means, palette) if tables.means["rate"].notna().any() else None,
            "hypervolume": volumes(tables.means),
            "training": training(tables, palette),
            "tokens": token_histograms(tables),
        }
        for name, figure in drawn.items():
            if figure is not None:
                save(figure, folder / name)
            else:  # one of an earlier report would be taken for this one's
                for kind in KINDS:
                    (folder / name).with_suffix(f".{kind}").unlink(missing_ok=True)


def save(figure: "Figure", path: Path) -> None:
    for kind, metadata in KINDS.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # the layout of the first stands for both; it takes as long as drawing
        write_bytes(path.with_suffix(f".{kind}"), buffer.getvalue())


def panels(rows: int, columns: int, height: float = 2.6, shared_y: bool = False) -> "tuple[Figure, np.ndarray]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex="col" if rows > 1 else False, sharey="row" if shared_y else False)


def variants(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(blank(value) for value in table["variant"]))


def of_variant(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    return table[[blank(value) == variant for value in table["variant"]]]


def colours(table: pd.DataFrame) -> dict[str, str]:
    names = dict.fromkeys(name for name in table["remedy"] if name != "base")
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def tradeoff(means: pd.DataFrame, palette: dict[str, str]) -> "Figure":
    """Domain against general, means over seeds with intervals over items, and the Pareto front."""
    names = variants(means)
    figure, axes = panels(1, len(names), height=3.0)
    for axis, variant in zip(axes[0], names, strict=True):
        own = of_variant(means, variant)
        for remedy, group in own.groupby("remedy", sort=False):
            base, wise = remedy == "base", remedy == "wise-ft"
            x, y = group["domain"].to_numpy(), group["general"].to_numpy()
            errors = {"xerr": bars(group, "domain"), "yerr": bars(group, "general")}
            axis.errorbar(x, y, **errors, fmt="none", ecolor=palette.get(remedy, "black"), elinewidth=0.6, alpha=0.5)
            sizes = 90.0 if base else 10.0 if wise else 15 + 45 * rank(group["rate"], means["rate"])
            axis.scatter(
                x, y, s=sizes, marker="*" if base else "D" if wise else "o", color=palette.get(remedy, "black"), label=literal(remedy), zorder=3, linewidths=0
            )
        points = pairs(own)
        front = [points[index] for index in pareto_front(points)]
        axis.step([x for x, _ in front], [y for _, y in front], where="pre", color="black", linewidth=0.8, linestyle="--", label="Pareto front", zorder=1)
        axis.set(xlabel="domain score", ylabel="general score", title=literal(variant))
    legend(figure, axes)
    return figure


def bars(group: pd.DataFrame, name: str) -> np.ndarray:
    """Lengths of the intervals over items, below and above; 0 where there is none."""
    lengths = np.stack([group[name] - group[f"{name}_lower"], group[f"{name}_upper"] - group[name]]).astype(float)
    return np.clip(np.nan_to_num(lengths), 0, None)


def rank(rates: pd.Series, everything: pd.Series) -> np.ndarray:
    """Where each rate stands among all, from 0 to 1."""
    order = sorted(set(everything.dropna()))
    return np.array([order.index(rate) / max(1, len(order) - 1) if rate in order else 0.0 for rate in rates])


def rates(means: pd.DataFrame, palette: dict[str, str]) -> "Figure":
    """Domain and general by learning rate, with the starting model as a line."""
    from matplotlib.ticker import NullLocator

    names = variants(means)
    figure, axes = panels(2, len(names), height=2.2, shared_y=True)
    ends = means["rate"].min() / 1.5, means["rate"].max() * 1.5
    for column, variant in enumerate(names):
        own = of_variant(means, variant)
        base = own[own["remedy"] == "base"]
        for axis, score in zip(axes[:, column], ("domain", "general"), strict=True):
            axis.set(xscale="log", xlim=ends)
            for remedy, group in own[own["trained"] & own["rate"].notna() & own[score].notna()].groupby("remedy", sort=False):
                group = group.sort_values("rate")
                look = {"fmt": "o-", "markersize": 3, "linewidth": 1, "elinewidth": 0.6, "color": palette[remedy], "label": literal(remedy)}
                axis.errorbar(group["rate"], group[score], yerr=bars(group, score), **look)
            if base[score].notna().any():
                axis.axhline(base[score].iloc[0], color="black", linewidth=0.8, linestyle=":", label="base")
            axis.set(
                xscale="log",
                ylabel=f"{score} score" if column == 0 else "",
                title=literal(variant) if score == "domain" else "",
                xlabel="learning rate" if score == "general" else "",
            )
    for axis in axes[0]:
        axis.xaxis.set_minor_locator(NullLocator())  # whose labels take half of the time
    legend(figure, axes)
    return figure


def volumes(means: pd.DataFrame) -> "Figure | None":
    rows = pd.DataFrame(volume_rows(means))
    if rows.empty:
        return None
    names = variants(rows)
    figure, axes = panels(1, len(names))
    for axis, variant in zip(axes[0], names, strict=True):
        own = of_variant(rows, variant)
        places = np.arange(len(own))
        axis.bar(places - 0.2, own["hypervolume"], 0.38, color="#0072b2", label="trained points")
        axis.bar(places + 0.2, own["with_wise"].astype(float), 0.38, color="#56b4e9", label="with Wise-FT's free points")
        axis.set_xticks(places, [literal(name) for name in own["remedy"]], rotation=30, ha="right")
        axis.set(ylabel="hypervolume", title=f"{literal(variant)} ({own['size'].iloc[0]} points each)".strip())
    legend(figure, axes)
    return figure


def training(tables: Tables, palette: dict[str, str]) -> "Figure | None":
    """General against domain on validation items, epoch by epoch, a line for each run."""
    curves = tables.curves.dropna(subset=["domain", "general"]).merge(tables.results[["name", "variant", "remedy", "rate"]], on="name")
    if curves.empty:
        return None
    names = variants(curves)
    figure, axes = panels(1, len(names), height=3.0)
    for axis, variant in zip(axes[0], names, strict=True):
        for _, group in of_variant(curves, variant).groupby("name", sort=False):
            group, remedy = group.sort_values("epoch"), group["remedy"].iloc[0]
            width = 0.4 + 1.2 * rank(group["rate"][:1], curves["rate"])[0]
            (line,) = axis.plot(group["domain"], group["general"], ".-", color=palette.get(remedy, "black"), label=literal(remedy))
            line.set(linewidth=width, markersize=2, alpha=0.8)
        axis.set(xlabel="domain, validation", ylabel="general, validation", title=literal(variant))
    legend(figure, axes)
    return figure


def token_histograms(tables: Tables) -> "Figure | None":
    """How probable the probe's tokens are at the start, after one epoch and at the end: of each remedy the run at the middle rate, first seed."""
    from matplotlib.ticker import NullLocator

    bins = tables.tokens[(tables.tokens["group"] == "bin") & (tables.tokens["set"] == "probe")]
    chosen = middle_runs(tables.results[tables.results["name"].isin(bins["name"])])
    if not chosen:
        return None
    columns = min(3, len(chosen))
    figure, axes = panels(-(-len(chosen) // columns), columns, height=2.2, shared_y=True)
    for axis in axes.flat[len(chosen) :]:
        axis.remove()
    for axis, (name, title) in zip(axes.flat, chosen.items(), strict=False):
        own = bins[bins["name"] == name]
        epochs = sorted({0, 1, int(own["epoch"].max())} & set(own["epoch"]))
        for number, epoch in enumerate(epochs):
            rows = own[own["epoch"] == epoch].sort_values("lower")
            shares = rows["num_tokens"] / max(1, rows["num_tokens"].sum())
            colour, label = ("#999999", "#56b4e9", "#0072b2")[number], ("start", f"epoch {epoch}", "end")[number]
            axis.stairs(shares, [*rows["lower"], rows["upper"].iloc[-1]], color=colour, label=label)
        axis.set(yscale="log", xlabel="probability of the token", ylabel="share of tokens", xlim=(0, 1), title=literal(title))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.label_outer()
    legend(figure, axes)
    return figure


def middle_runs(results: pd.DataFrame) -> dict[str, str]:
    """Of each variant and remedy one run: its name and a title."""
    found = {}
    trained = results[results["trained"]].assign(variant=[blank(value) for value in results[results["trained"]]["variant"]])
    for _, group in trained.groupby(["variant", "remedy"], sort=False):
        order = sorted(set(group["rate"].dropna())) or [None]
        row = group[group["rate"].eq(order[len(order) // 2]) | group["rate"].isna()].iloc[0]
        found[row["name"]] = row["point"]
    return found


def literal(text: str) -> str:
    """A text that is shown as it is, where a dollar would begin a formula."""
    return text.replace("$", r"\$")


def legend(figure: "Figure", axes: "np.ndarray | Sequence[Axes]") -> None:
    """One for all panels, each name once."""
    entries: dict[str, Any] = {}
    for axis in np.ravel(np.asarray(axes, dtype=object)):
        if axis.figure is not None:
            entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True) if label not in entries}
    columns = 3 if figure.get_figwidth() < 5 else 6  # of which each takes an inch
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(columns, len(entries)), frameon=False)
