"""The figures of docs/when_talr_helps.md."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.tables.talr_cells import SCORES, Cells, Difference, Point, read_cells
from docs.tables.when_talr_helps import LARGE, RATES, by_group, noise_share, temperatures, variants
from lit_talr.report.figures import STYLE, panels, save_figure
from lit_talr.report.runs import scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 0.2
"""The difference at which the colours end."""
SHOWN = ("clean", "words-0.1", "words-0.2", "words-0.3")
LINES = {"hard": ("#d55e00", "hard: what is to be learned"), "noise": ("#666666", "noise"), "easy": ("#009e73", "easy")}


def draw_talr(folder: Path) -> None:
    """Draw the figures into the folder ``figures`` next to the results; none where there are no results yet."""
    from matplotlib import rc_context

    if not (folder / "results.parquet").is_file():
        return
    cells = read_cells(folder)
    with rc_context(STYLE):
        save_figure(phase(cells), folder / "figures" / "phase")
        save_figure(temperature(cells), folder / "figures" / "temperature")


def phase(cells: Cells) -> "Figure":
    """TALR minus Standard by share of random words and learning rate: at the same rate, and at the same domain score."""
    words = sorted((name for name in variants(cells) if name in ("clean", *(f"words-{noise_share(name):g}",))), key=noise_share)
    figure, axes = panels(1, 3, height=2.8)
    same = {
        score: {(name, rate): cells.pooled(Point(name, "talr", rate), Point(name, "standard", rate)).get(score) for name in words for rate in RATES}
        for score in SCORES
    }
    matched = {(name, rate): cells.matched(Point(name, "talr", rate)) for name in words for rate in RATES}
    at_match = {key: None if found is None else found.difference for key, found in matched.items()}
    beyond = {key for key, found in matched.items() if found is not None and not found.reached}
    for axis, title, found in zip(
        axes[0],
        ("domain, same rate", "general, same rate", "general, same domain score"),
        (same["domain"], same["general"], at_match),
        strict=True,
    ):
        tiles(axis, words, found, beyond if found is at_match else set())
        axis.set(title=title, xlabel="learning rate")
    axes[0][0].set(ylabel="share of random words")
    figure.suptitle("TALR minus Standard", fontsize="medium")
    return figure


def tiles(axis: "Axes", words: list[str], found: dict[tuple[str, float], Difference | None], beyond: set[tuple[str, float]]) -> None:
    """A tile for each cell, with the difference and the half width of its interval; bold where that does not contain 0."""
    import numpy as np

    values = np.array([[np.nan if (one := found[name, rate]) is None else one.value for rate in RATES] for name in words])
    axis.imshow(values, cmap="RdBu", vmin=-MOST, vmax=MOST, aspect="auto", origin="lower")
    axis.set_xticks(range(len(RATES)), [scientific(rate) for rate in RATES])
    axis.set_yticks(range(len(words)), [f"{noise_share(name):g}" for name in words])
    axis.grid(False)
    for row, name in enumerate(words):
        for column, rate in enumerate(RATES):
            if (one := found[name, rate]) is not None:
                text = f"{one.value:+.2f}\n±{(one.upper - one.lower) / 2:.2f}{' *' if (name, rate) in beyond else ''}"
                dark = "white" if abs(one.value) > 0.6 * MOST else "black"
                axis.text(column, row, text, ha="center", va="center", fontsize=6, weight="bold" if one.is_clear else "normal", color=dark)


def temperature(cells: Cells) -> "Figure":
    """TALR's temperature by epoch, beside the mean NLL of each group of the probe's tokens, in the runs of TALR at the large rate."""
    there = [name for name in SHOWN if name in variants(cells)]
    figure, axes = panels(1, max(1, len(there)), height=2.6, shared_y=True)
    for axis, name in zip(axes[0], there, strict=False):
        rows, used = by_group(cells, name, "talr"), temperatures(cells, name)
        for group, (colour, label) in LINES.items():
            line = rows["nll"].unstack("group").get(group) if not rows.empty else None
            if line is not None and line.notna().any():
                look: dict[str, Any] = {"color": colour, "label": label, "markersize": 3, "linewidth": 1}
                axis.plot(line.index, line, "o-", **look)
        axis.plot(used.index, used, "s--", color="black", markersize=3, linewidth=1, label="temperature")
        axis.set(title=name, xlabel=f"epoch, at {scientific(LARGE)}", yscale="log")
    axes[0][0].set(ylabel="nats")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    return figure
