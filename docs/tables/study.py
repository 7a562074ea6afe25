"""The tables of docs/study.md."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from docs.tables.markdown import interval, short, table
from lit_talr.report.runs import scientific
from lit_talr.report.tables import Tables, read_tables
from lit_talr.report.volumes import volume_rows

VARIANTS = ("cot", "label")
PROBE = 64
"""Number of probe examples of TokenProbability in the study."""
CONTROLS = ("permuted", "scaled")
BUDGETS = (0.02, 0.05, 0.10)
LEVELS = (0.2, 0.4)


def trained(tables: Tables, variant: str) -> pd.DataFrame:
    """The trained points of a variant, means over seeds."""
    means = tables.means
    return means[(means["variant"] == variant) & means["trained"]]


def grid(tables: Tables, variant: str) -> str:
    """Domain and general score of each remedy by learning rate."""
    lines = []
    for remedy, group in trained(tables, variant).groupby("remedy", sort=False):
        cells = [f"{scientific(row.rate)}: {short(row.domain)} / {short(row.general)}" for row in group.sort_values("rate").itertuples()]
        lines.append([str(remedy), *cells, *["-"] * (4 - len(cells))])
    base = tables.means[(tables.means["variant"] == variant) & (tables.means["remedy"] == "base")].iloc[0]
    lines.append(["base", f"{short(base.domain)} / {short(base.general)}", "", "", ""])
    return table(["remedy", "rate: domain / general", "", "", ""], lines)


def wise(tables: Tables, variant: str) -> str:
    """Wise-FT's points of Standard."""
    points = tables.means[(tables.means["variant"] == variant) & (tables.means["remedy"] == "wise-ft") & (tables.means["source"] == "standard")]
    lines = []
    for rate, group in points.groupby("rate"):
        cells = {row.alpha: f"{short(row.domain)} / {short(row.general)}" for row in group.itertuples()}
        lines.append([scientific(float(str(rate))), *(cells[alpha] for alpha in sorted(cells))])
    return table(["Standard's rate", *(f"alpha {alpha:g}" for alpha in sorted(points["alpha"].unique()))], lines)


def first_reached(curve: pd.DataFrame, level: float) -> tuple[float, float] | None:
    """The epoch where a domain score is first reached, and the general score there, on the straight line between two epochs as on the page."""
    rows = curve.sort_values("epoch")[["epoch", "domain", "general"]].to_numpy()
    for before, after in pairwise(rows):
        if before[1] < level <= after[1]:
            epoch, _, general = before + (level - before[1]) / (after[1] - before[1]) * (after - before)
            return float(epoch), float(general)
    return None


def matched(tables: Tables, variant: str) -> str:
    """General score where the domain score first reaches a level during training, on validation items; means over seeds, all of which must reach it."""
    results = tables.results[(tables.results["variant"] == variant) & tables.results["trained"]]
    lines = []
    for (remedy, rate), group in results.groupby(["remedy", "rate"], sort=False):
        cells = []
        for level in LEVELS:
            reached = [first_reached(tables.curves[tables.curves["name"] == name], level) for name in group["name"]]
            known = [one for one in reached if one is not None]
            epoch, general = np.mean(known, axis=0) if len(known) == len(reached) else (np.nan, np.nan)
            cells += ["-" if np.isnan(epoch) else f"{epoch:.1f}", short(general)]
        if set(cells) != {"-"}:
            lines.append([str(remedy), scientific(float(rate)), *cells])
    return table(["remedy", "rate", *(text for level in LEVELS for text in (f"epoch at {short(level)}", "general there"))], lines)


def within(tables: Tables, variant: str) -> str:
    """For each remedy the rate with the best validation domain score whose validation drop stays within a budget, and its test scores."""
    results = tables.results[(tables.results["variant"] == variant) & tables.results["trained"]]
    curves = tables.curves.sort_values("epoch").groupby("name")["general"]
    results = results.assign(lost=results["name"].map(curves.first() - curves.last()))
    settings = results.groupby(["remedy", "rate"], sort=False)[["val/score", "lost", "domain", "drop"]].mean().reset_index()
    lines = []
    for remedy, group in settings.groupby("remedy", sort=False):
        cells = []
        for budget in BUDGETS:
            within_budget = group[group["lost"] <= budget]
            if within_budget.empty:
                cells.append("none")
                continue
            best = within_budget.loc[within_budget["val/score"].idxmax()]
            cells.append(f"{scientific(best['rate'])}: {short(best['domain'])}, lost {short(best['drop'])}")
        lines.append([str(remedy), *cells])
    return table(["remedy", *(f"budget {short(budget)}" for budget in BUDGETS)], lines)


def controls(tables: Tables, variant: str) -> str:
    """TALR minus each of its controls."""
    pairs, means = tables.pairs.set_index(["reference", "point"]), trained(tables, variant)
    talr = means[means["remedy"] == "talr"].sort_values("rate").reset_index(drop=True)
    lines = []
    for remedy in ("standard", *CONTROLS):
        group = means[means["remedy"] == remedy].sort_values("rate")
        for row in group.itertuples():
            partner = talr[talr["rate"] >= row.rate].iloc[0]  # a scaled rate is below the one that it was scaled from
            pair = pairs.loc[(row.point, partner["point"])]
            cells = [interval(pair[name], pair[f"{name}_lower"], pair[f"{name}_upper"], sign=True) for name in ("domain", "general")]
            lines.append([scientific(partner["rate"]), f"{remedy} at {scientific(row.rate)}", *cells])
    return table(["TALR at", "minus", "domain", "general"], lines)


def mean_weights(tables: Tables) -> str:
    """TALR's mean weight over the supervised tokens, averaged over epochs."""
    tokens = tables.tokens[(tables.tokens["set"] == "train") & (tables.tokens["group"] == "all")]
    weight = tokens.groupby("name")["weight"].mean()
    results = tables.results[tables.results["remedy"].isin(["talr", "talr-token", "permuted"])]
    results = results.assign(weight=results["name"].map(weight))
    lines = []
    for (variant, remedy), group in results.groupby(["variant", "remedy"], sort=False):
        by_rate = group.groupby("rate")["weight"].mean()
        lines.append([str(variant), str(remedy), ", ".join(f"{scientific(float(str(rate)))}: {short(value)}" for rate, value in by_rate.items())])
    return table(["", "", "rate: mean weight"], lines)


def start(tables: Tables) -> str:
    """How hard the supervised tokens of the probe are before training; apart from the seed, the probe is the same for all runs of a variant."""
    lines = []
    for variant in VARIANTS:
        run = tables.results[(tables.results["variant"] == variant) & (tables.results["remedy"] == "standard")]["name"].iloc[0]
        probe = tables.tokens[(tables.tokens["name"] == run) & (tables.tokens["epoch"] == 0) & (tables.tokens["set"] == "probe")]
        every, bins = probe[probe["group"] == "all"].iloc[0], probe[probe["group"] == "bin"]
        share = [short(bins[chosen]["num_tokens"].sum() / bins["num_tokens"].sum()) for chosen in (bins["upper"] <= 0.201, bins["lower"] >= 0.949)]
        lines.append([variant, f"{every['num_tokens'] / PROBE:.1f}", short(every["nll"]), *share])
    return table(["", "supervised tokens an example", "mean NLL", "p < .2", "p > .95"], lines)


def leak(tables: Tables, variant: str) -> str:
    """General ability, counted in several ways."""
    results = tables.results[(tables.results["variant"] == variant) & tables.results["remedy"].isin(["base", "standard", "talr", "l2"])]
    suites = [name for name in results.columns if name.startswith("general/")]
    without = results[[name for name in suites if name != "general/rules"]].mean(axis=1)
    results = results.assign(without=without)
    columns = ["general/rules", "lenient/rules", "general", "without", "general_lenient"]
    lines = [[str(point), *(short(group[column].mean()) for column in columns)] for point, group in results.groupby("point", sort=False)]
    return table(["point", "rules", "rules, leniently", "general", "general without rules", "general, leniently"], lines)


def volumes(tables: Tables) -> str:
    """Hypervolumes of the remedies; the controls are left out, since they have fewer points."""
    rows = pd.DataFrame(volume_rows(tables.means[~tables.means["remedy"].isin(CONTROLS)]))
    lines = []
    for remedy, group in rows.groupby("remedy", sort=False):
        by_variant = group.set_index("variant")
        lines.append(
            [
                str(remedy),
                *(short(by_variant["hypervolume"].get(variant)) for variant in VARIANTS),
                *(short(by_variant["with_wise"].get(variant)) for variant in VARIANTS),
            ]
        )
    sizes = rows.groupby("variant")["size"].first()
    heads = [f"{variant}, {sizes[variant]} points each" for variant in VARIANTS if variant in sizes]
    return table(["remedy", *heads, *(f"{variant}, with Wise-FT's points" for variant in VARIANTS)], lines)


def study_tables(folder: Path) -> dict[str, str]:
    """Every table of the page by its name."""
    tables = read_tables(folder)
    by_variant: dict[str, Callable[[Tables, str], str]] = {
        "grid": grid,
        "wise": wise,
        "matched": matched,
        "within": within,
        "controls": controls,
        "leak": leak,
    }
    texts = {f"{name} {variant}": make(tables, variant) for name, make in by_variant.items() for variant in VARIANTS}
    return {**texts, "start": start(tables), "mean weights": mean_weights(tables), "volumes": volumes(tables)}
