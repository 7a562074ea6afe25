"""Figures fit for a paper, as PNG and PDF; the same tables give the same bytes."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lit_talr.report.analysis import Analysis
from lit_talr.report.published import FORGETTING, forgetting_columns
from lit_talr.report.runs import scientific
from lit_talr.report.statistics import pareto_front
from lit_talr.report.tables import Tables
from lit_talr.report.volumes import by_variant, score_pairs, volume_rows
from lit_talr.utils.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # a third of a second at start-up, which only drawing has to wait for
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666", "#8a6d00", "#a5aa99") + (
    "#003f66",
    "#ff9d5c",
    "#5fd3b0",
    "#7a2f5c",
    "#c9b200",
    "#0f8a9d",
    "#c39bd3",
    "#b03030",
    "#3d5a1f",
    "#7b5b43",
)
"""Okabe and Ito's, which colour-blind readers can tell apart, and some more; the page has the same."""
STYLE: dict[Any, Any] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
STYLE |= {"pdf.fonttype": 42, "savefig.dpi": 200, "axes.titley": 1.0}  # 42: letters stay letters, as journals ask; titley: no search for a title's place
MOST_NAMED = 8
"""Points of a variant, up to which a figure has room for their names."""

KINDS: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
"""File formats, each without the metadata that would make two files differ."""


def write_figures(tables: Tables, analysis: Analysis, folder: Path, published: pd.DataFrame | None = None) -> None:
    """Draw all figures that the tables and their analysis have numbers for."""
    from matplotlib import rc_context

    shown = tables.means[tables.means["general"].notna()]
    palette = colours(tables.results)
    with rc_context(STYLE):
        drawn = {
            "matched": matched(analysis.matched, palette),
            "transitions": transitions(analysis.transitions, palette),
            "kl": general_by_kl(analysis.kl, palette),
            "tradeoff": tradeoff(shown, palette),
            "rates": rates(tables.means, palette) if tables.means["rate"].notna().any() else None,
            "forgetting": forgetting(tables.results, published, palette),
            "hypervolume": volumes(pd.DataFrame(volume_rows(tables.means))),
            "training": training(tables, palette),
            "tokens": token_histograms(tables),
        }
        for name, figure in drawn.items():
            if figure is not None:
                save_figure(figure, folder / name)
            else:  # one of an earlier report would be taken for this one's
                for kind in KINDS:
                    (folder / name).with_suffix(f".{kind}").unlink(missing_ok=True)


def save_figure(figure: "Figure", path: Path) -> None:
    for kind, metadata in KINDS.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # the layout of the first stands for both; it takes as long as drawing
        write_bytes(path.with_suffix(f".{kind}"), buffer.getvalue())


def panels(rows: int, columns: int, height: float = 2.6, shared_y: bool = False) -> "tuple[Figure, np.ndarray]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex="col" if rows > 1 else False, sharey="row" if shared_y else False)


def colours(table: pd.DataFrame) -> dict[str, str]:
    names = dict.fromkeys(name for name in table["remedy"] if name != "base")
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def by_remedy(rows: pd.DataFrame, palette: dict[str, str]) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The rows of each remedy, with its colour and its name in the legend."""
    for remedy, group in rows.groupby("remedy", sort=False):
        yield group, {"color": palette.get(remedy, "black"), "label": literal(remedy)}


def side_by_side(
    rows: pd.DataFrame, draw: Callable[["Axes", pd.DataFrame], None], x: str, y: str, height: float = 3.0, shared_y: bool = False
) -> "Figure | None":
    """A panel for each variant, with the names of its axes and one legend; None without rows."""
    if rows.empty:
        return None
    groups = by_variant(rows)
    figure, axes = panels(1, len(groups), height, shared_y)
    for axis, (variant, group) in zip(axes[0], groups.items(), strict=True):
        axis.set(xlabel=x, ylabel="" if shared_y and axis is not axes[0, 0] else y, title=literal(variant))
        draw(axis, group)
    legend(figure, axes)
    return figure


def tradeoff(means: pd.DataFrame, palette: dict[str, str]) -> "Figure | None":
    """Domain against general, means over seeds with intervals over items, and the Pareto front; where points are few, with their names and equal axes."""
    groups = by_variant(means)
    few = max(map(len, groups.values()), default=0) <= MOST_NAMED

    def draw(axis: "Axes", points: pd.DataFrame) -> None:
        for remedy, group in points.groupby("remedy", sort=False):
            colour, marker = palette.get(remedy, "black"), {"base": "*", "wise-ft": "D", "lines": "d"}.get(remedy, "o")
            sizes = {"base": 90.0, "wise-ft": 10.0, "lines": 10.0}.get(remedy, 15 + 45 * rank(group["rate"], means["rate"]))
            x, y = group["domain"].to_numpy(), group["general"].to_numpy()
            axis.errorbar(x, y, xerr=bars(group, "domain"), yerr=bars(group, "general"), fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.5)
            axis.scatter(x, y, s=sizes, marker=marker, color=colour, label=None if few else literal(remedy), zorder=3, linewidths=0)
        pairs = score_pairs(points)
        x, y = zip(*(pairs[index] for index in pareto_front(pairs)), strict=True)
        axis.step(x, y, where="pre", color="black", linewidth=0.8, linestyle="--", label="Pareto front", zorder=1)

    figure = side_by_side(means, draw, "domain score", "general score")
    if figure and few:
        first, *others = figure.axes
        for axis in figure.axes:
            axis.margins(0.1)
        for axis in others:
            axis.sharex(first)
            axis.sharey(first)
        first.autoscale_view()
        figure.draw_without_rendering()  # what is placed by measured boxes needs the final layout
        for axis, points in zip(figure.axes, groups.values(), strict=True):
            name_points(axis, points, palette)
    return figure


def name_points(axis: "Axes", points: pd.DataFrame, palette: dict[str, str]) -> None:
    """Write each point's name next to it, where it covers fewest points and names; the axis is laid out already."""
    from matplotlib.transforms import Bbox

    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in axis.transData.transform(points[["domain", "general"]].to_numpy(float))]
    for row in points.itertuples():
        rate, alpha = "" if pd.isna(row.rate) else f" {scientific(row.rate)}", "" if pd.isna(row.alpha) else f", α {row.alpha:g}"
        look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": palette.get(row.remedy, "black")}
        texts = [
            axis.annotate(literal(f"{row.remedy}{rate}{alpha}"), (row.domain, row.general), (6 * x, away * y), **look, ha=across, va=along)
            for away in (6, 14)
            for x, across in ((1, "left"), (-1, "right"), (0, "center"))
            for y, along in ((1, "bottom"), (-1, "top"), (0, "center"))
            if x or y
        ]
        boxes = [text.get_window_extent() for text in texts]
        covered = [box.count_overlaps(taken) + 100 * (not all(axis.bbox.contains(*corner) for corner in (box.min, box.max))) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        for text in (*texts[:best], *texts[best + 1 :]):
            text.remove()


def bars(group: pd.DataFrame, name: str) -> np.ndarray:
    """Lengths of the intervals over items, below and above; 0 where there is none."""
    lengths = np.stack([group[name] - group[f"{name}_lower"], group[f"{name}_upper"] - group[name]]).astype(float)
    return np.clip(np.nan_to_num(lengths), 0, None)


def rank(rates: pd.Series, everything: pd.Series) -> np.ndarray:
    """The rank of each rate among all, from 0 to 1; 0 for a missing one."""
    order = np.unique(everything.dropna())
    return np.where(rates.isna(), 0.0, np.searchsorted(order, rates) / max(1, len(order) - 1))


def rates(means: pd.DataFrame, palette: dict[str, str]) -> "Figure":
    """Domain and general by learning rate, with the base model as a line."""
    from matplotlib.ticker import NullLocator

    groups = by_variant(means)
    figure, axes = panels(2, len(groups), height=2.2, shared_y=True)
    used = np.unique(means["rate"].dropna())
    ends = used[0] / 1.5, used[-1] * 1.5
    for column, (variant, points) in zip(axes.T, groups.items(), strict=True):
        base = points[points["remedy"] == "base"]
        for axis, score in zip(column, ("domain", "general"), strict=True):
            axis.set(xscale="log", xlim=ends)
            for own, look in by_remedy(points[points["trained"] & points["rate"].notna() & points[score].notna()], palette):
                own = own.sort_values("rate")
                axis.errorbar(own["rate"], own[score], bars(own, score), fmt="o-", markersize=3, linewidth=1, elinewidth=0.6, **look)
            if base[score].notna().any():
                axis.axhline(base[score].iloc[0], color="black", linewidth=0.8, linestyle=":", label="base")
            axis.set(xscale="log", ylabel=f"{score} score" if column[0] is axes[0, 0] else "")
        column[0].set(title=literal(variant))
        column[0].xaxis.set_minor_locator(NullLocator())  # whose labels take half of the time
        column[1].set_xticks(used, [scientific(rate) for rate in used], rotation=90 if len(used) > 5 else 0)
        column[1].set(xlabel="learning rate")
    legend(figure, axes)
    return figure


def matched(rows: pd.DataFrame, palette: dict[str, str]) -> "Figure | None":
    """General score at three levels of the domain score, side by side for all remedies; the merges of a run are diamonds."""

    def draw(axis: "Axes", group: pd.DataFrame) -> None:
        lines, levels = list(dict.fromkeys(group["line"])), list(dict.fromkeys(group["share"]))
        for number, (_, line) in enumerate(group.groupby("line", sort=False)):
            merged = line["source"].notna().any()
            for own, look in by_remedy(line, palette):
                own = own[own["reached"]]
                x = [levels.index(share) + 0.8 * ((number + 0.5) / len(lines) - 0.5) for share in own["share"]]
                dots: dict[str, Any] = {"fmt": "D", "markersize": 3} if merged else {"fmt": "o", "markersize": 5}
                axis.errorbar(x, own["general"], bars(own, "general"), elinewidth=0.6, **dots, **look)
        axis.set_xticks(range(len(levels)), [f"{share:.0%}\n({level:.2f})" for share, level in zip(levels, dict.fromkeys(group["level"]), strict=True)])

    label = "way to Standard's best domain score (domain)"
    return side_by_side(rows, draw, label, "general score", height=2.8, shared_y=True) if rows["reached"].any() else None


def transitions(rows: pd.DataFrame, palette: dict[str, str]) -> "Figure | None":
    """General items gained against items lost by point, means over suites; on the line as much is gained as lost."""

    def draw(axis: "Axes", group: pd.DataFrame) -> None:
        for own, look in by_remedy(group, palette):
            axis.errorbar(own["gained"], own["lost"], bars(own, "lost"), bars(own, "gained"), fmt="o", elinewidth=0.6, markersize=3, **look)
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")

    return side_by_side(rows[rows["score"].eq("general") & rows["suite"].isna()], draw, "wrong, then right", "right, then wrong")


def general_by_kl(rows: pd.DataFrame, palette: dict[str, str]) -> "Figure | None":
    """Loss of general score against the divergence from the base model, with the curve that is common to all remedies."""

    def draw(axis: "Axes", group: pd.DataFrame) -> None:
        for own, look in by_remedy(group, palette):
            axis.scatter(own["kl"], own["drop"], s=12, zorder=3, linewidths=0, **look)
        x = np.linspace(0, group["kl"].max(), 200)
        axis.plot(x, group["linear"].iloc[0] * x + group["quadratic"].iloc[0] * x**2, color="black", linewidth=0.8, linestyle="--", label="common curve")

    return side_by_side(rows, draw, "KL from the base model, nats per token", "drop of the general score")


def forgetting(results: pd.DataFrame, published: pd.DataFrame | None, palette: dict[str, str]) -> "Figure | None":
    """Domain score against the rise of the NLL of general corpora, every run; published points are hollow."""
    corpora = forgetting_columns(results)
    if published is None and not corpora:
        return None
    figure, axes = panels(1, max(1, len(corpora)), height=3.0)
    for axis, column in zip(axes[0], corpora or [""], strict=True):
        for remedy, own in results.groupby("remedy", sort=False) if column else ():
            axis.scatter(own["domain"], own[column], s=12, color=palette.get(remedy, "black"), label=literal(remedy), zorder=3, linewidths=0)
        if published is not None:
            axis.scatter(published["domain"], published["forgetting"], s=12, facecolors="none", edgecolors="#666666", linewidths=0.8, label="published")
        axis.set(xlabel="domain", ylabel="rise of the NLL, nats per token", title=literal(column.removeprefix(FORGETTING)))
        axis.invert_yaxis()  # up is better, as everywhere
    legend(figure, axes)
    return figure


def volumes(rows: pd.DataFrame) -> "Figure | None":
    """The hypervolume of each remedy, as bars."""

    def draw(axis: "Axes", group: pd.DataFrame) -> None:
        positions = np.arange(len(group))
        axis.bar(positions - 0.2, group["hypervolume"], 0.38, color="#0072b2", label="trained points")
        axis.bar(positions + 0.2, group["with_wise"].astype(float), 0.38, color="#56b4e9", label="with merges, which are free")
        axis.set_xticks(positions, [literal(name) for name in group["remedy"]], rotation=30, ha="right")
        axis.set_title(f"{literal(group['variant'].iloc[0] or '')} ({group['size'].iloc[0]} points each)".strip())

    return side_by_side(rows, draw, "", "hypervolume", height=2.6)


def training(tables: Tables, palette: dict[str, str]) -> "Figure | None":
    """General against domain on validation items, epoch by epoch, a line for each run."""
    curves = tables.curves.dropna(subset=["domain", "general"]).merge(tables.results[["name", "variant", "remedy", "rate"]], on="name")
    every_rate = curves["rate"].drop_duplicates()

    def draw(axis: "Axes", runs: pd.DataFrame) -> None:
        for of_remedy, look in by_remedy(runs, palette):
            for _, own in of_remedy.groupby("rate", sort=False, dropna=False):
                own, width = own.sort_values(["name", "epoch"]), 0.4 + 1.2 * rank(own["rate"][:1], every_rate)[0]
                ends = np.flatnonzero(own["name"].ne(own["name"].shift()))[1:]  # one line with gaps between runs, which draws faster than many
                x, y = (np.insert(own[score].to_numpy(float), ends, np.nan) for score in ("domain", "general"))
                axis.plot(x, y, ".-", linewidth=width, markersize=2, alpha=0.8, **look)

    return side_by_side(curves, draw, "domain, validation", "general, validation")


def token_histograms(tables: Tables) -> "Figure | None":
    """How probable the probe's tokens are under the base model, after one epoch and at the end: for each remedy the run at the middle rate, first seed."""
    from matplotlib.ticker import NullLocator

    bins = tables.tokens[(tables.tokens["group"] == "bin") & (tables.tokens["set"] == "probe")]
    runs = middle_runs(tables.results[tables.results["name"].isin(bins["name"])])
    if not runs:
        return None
    columns = min(3, len(runs))
    figure, axes = panels(-(-len(runs) // columns), columns, height=2.2, shared_y=True)
    for axis in axes.flat[len(runs) :]:
        axis.remove()
    for axis, (name, title) in zip(axes.flat, runs.items(), strict=False):
        histograms = {epoch: group.sort_values("lower") for epoch, group in bins[bins["name"] == name].groupby("epoch")}
        shown = sorted({0, 1, max(histograms)} & set(histograms))
        for number, epoch in enumerate(shown):
            rows, colour, label = histograms[epoch], ("#999999", "#56b4e9", "#0072b2")[number], ("base", f"epoch {epoch}", "end")[number]
            shares = rows["num_tokens"] / max(1, rows["num_tokens"].sum())
            axis.stairs(shares, [*rows["lower"], rows["upper"].iloc[-1]], color=colour, label=label)
        axis.set(yscale="log", xlabel="probability of the token", ylabel="share of tokens", xlim=(0, 1), title=literal(title))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.label_outer()
    legend(figure, axes)
    return figure


def middle_runs(results: pd.DataFrame) -> dict[str, str]:
    """One run of each variant and remedy: its name and a title."""
    runs = {}
    for trained in by_variant(results[results["trained"]]).values():
        for _, group in trained.groupby("remedy", sort=False):
            order = sorted(set(group["rate"].dropna())) or [None]
            row = group[group["rate"].eq(order[len(order) // 2]) | group["rate"].isna()].iloc[0]
            runs[row["name"]] = row["point"]
    return runs


def literal(text: str) -> str:
    """A text as it is: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def legend(figure: "Figure", axes: "np.ndarray | Sequence[Axes]") -> None:
    """Add one legend for all panels, each name once."""
    entries: dict[str, Any] = {}
    for axis in np.ravel(np.asarray(axes, dtype=object)):
        if axis.figure is not None:
            entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True) if label not in entries}
    columns = 3 if figure.get_figwidth() < 5 else 6  # of which each takes an inch
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=min(columns, len(entries)), frameon=False)
