"""Writes the tables of docs/study.md from docs/study/*.parquet: ``python docs/make_study.py`` (``make docs``). A test keeps the two the same.

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; what is said around it is written by hand.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from lit_talr.report.runs import scientific
from lit_talr.report.tables import Tables, read_tables
from lit_talr.report.volumes import volume_rows

PAGE = Path(__file__).parent / "study.md"
FOLDER = Path(__file__).parent / "study"
VARIANTS = ("cot", "label")
PROBE = 64
"""Examples that TokenProbability follows."""
CONTROLS = ("permuted", "scaled")
BUDGETS = (0.02, 0.05, 0.10)
LEVELS = (0.2, 0.4)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(value: float | None, sign: bool = False) -> str:
    """Three digits, as in ``.536``."""
    if value is None or pd.isna(value):
        return "-"
    return f"{value:{'+' if sign else ''}.3f}".replace("0.", ".", 1)


def trained(found: Tables, variant: str) -> pd.DataFrame:
    means = found.means
    return means[(means["variant"] == variant) & means["trained"]]


def grid(found: Tables, variant: str) -> str:
    """A remedy's domain and general score by learning rate."""
    own = trained(found, variant)
    lines = []
    for remedy, group in own.groupby("remedy", sort=False):
        cells = [f"{scientific(row.rate)}: {short(row.domain)} / {short(row.general)}" for row in group.sort_values("rate").itertuples()]
        lines.append([str(remedy), *cells, *["-"] * (4 - len(cells))])
    base = found.means[(found.means["variant"] == variant) & (found.means["remedy"] == "base")].iloc[0]
    lines.append(["base", f"{short(base.domain)} / {short(base.general)}", "", "", ""])
    return table(["remedy", "rate: domain / general", "", "", ""], lines)


def wise(found: Tables, variant: str) -> str:
    """Wise-FT's points of Standard."""
    own = found.means[(found.means["variant"] == variant) & (found.means["remedy"] == "wise-ft") & (found.means["source"] == "standard")]
    lines = []
    for rate, group in own.groupby("rate"):
        cells = {row.alpha: f"{short(row.domain)} / {short(row.general)}" for row in group.itertuples()}
        lines.append([scientific(float(str(rate))), *(cells[alpha] for alpha in sorted(cells))])
    return table(["Standard's rate", *(f"alpha {alpha:g}" for alpha in sorted(own["alpha"].unique()))], lines)


def first_reached(curve: pd.DataFrame, level: float) -> tuple[float, float] | None:
    """The epoch where a domain score is first reached, and the general score there: on the straight line between two epochs, as on the page."""
    rows = curve.sort_values("epoch")[["epoch", "domain", "general"]].to_numpy()
    for before, after in pairwise(rows):
        if before[1] < level <= after[1]:
            epoch, _, general = before + (level - before[1]) / (after[1] - before[1]) * (after - before)
            return float(epoch), float(general)
    return None


def matched(found: Tables, variant: str) -> str:
    """General score where the domain score first reaches a level, along training on validation items; means over seeds, of which all must reach it."""
    trained = found.results[(found.results["variant"] == variant) & found.results["trained"]]
    lines = []
    for (remedy, rate), group in trained.groupby(["remedy", "rate"], sort=False):
        cells = []
        for level in LEVELS:
            reached = [first_reached(found.curves[found.curves["name"] == name], level) for name in group["name"]]
            known = [one for one in reached if one is not None]
            epoch, general = np.mean(known, axis=0) if len(known) == len(reached) else (np.nan, np.nan)
            cells += ["-" if np.isnan(epoch) else f"{epoch:.1f}", short(general)]
        if set(cells) != {"-"}:
            lines.append([str(remedy), scientific(float(rate)), *cells])
    return table(["remedy", "rate", *(text for level in LEVELS for text in (f"epoch at {short(level)}", "general there"))], lines)


def within(found: Tables, variant: str) -> str:
    """Of each remedy the rate with the best validation domain score whose validation drop stays within a budget, and its test scores."""
    results = found.results[(found.results["variant"] == variant) & found.results["trained"]]
    curves = found.curves.sort_values("epoch").groupby("name")["general"]
    results = results.assign(lost=results["name"].map(curves.first() - curves.last()))
    settings = results.groupby(["remedy", "rate"], sort=False)[["val/score", "lost", "domain", "drop"]].mean().reset_index()
    lines = []
    for remedy, group in settings.groupby("remedy", sort=False):
        cells = []
        for budget in BUDGETS:
            kept = group[group["lost"] <= budget]
            if kept.empty:
                cells.append("none")
                continue
            best = kept.loc[kept["val/score"].idxmax()]
            cells.append(f"{scientific(best['rate'])}: {short(best['domain'])}, lost {short(best['drop'])}")
        lines.append([str(remedy), *cells])
    return table(["remedy", *(f"budget {short(budget)}" for budget in BUDGETS)], lines)


def controls(found: Tables, variant: str) -> str:
    """TALR less each of its controls."""
    pairs, means = found.pairs.set_index(["reference", "point"]), trained(found, variant)
    talr = means[means["remedy"] == "talr"].sort_values("rate").reset_index(drop=True)
    lines = []
    for remedy in ("standard", *CONTROLS):
        group = means[means["remedy"] == remedy].sort_values("rate")
        for row in group.itertuples():
            partner = talr[talr["rate"] >= row.rate].iloc[0]  # a scaled rate is below the one that it was scaled from
            pair = pairs.loc[(row.point, partner["point"])]
            cells = [f"{short(pair[name], sign=True)} [{short(pair[f'{name}_lower'])}, {short(pair[f'{name}_upper'])}]" for name in ("domain", "general")]
            lines.append([scientific(partner["rate"]), f"{remedy} at {scientific(row.rate)}", *cells])
    return table(["TALR at", "less", "domain", "general"], lines)


def mean_weights(found: Tables) -> str:
    """TALR's mean weight over the supervised tokens, epoch by epoch averaged."""
    tokens = found.tokens[(found.tokens["set"] == "train") & (found.tokens["group"] == "all")]
    weight = tokens.groupby("name")["weight"].mean()
    results = found.results[found.results["remedy"].isin(["talr", "talr-token", "permuted"])]
    results = results.assign(weight=results["name"].map(weight))
    lines = []
    for (variant, remedy), group in results.groupby(["variant", "remedy"], sort=False):
        own = group.groupby("rate")["weight"].mean()
        lines.append([str(variant), str(remedy), ", ".join(f"{scientific(float(str(rate)))}: {short(value)}" for rate, value in own.items())])
    return table(["", "", "rate: mean weight"], lines)


def start(found: Tables) -> str:
    """How hard the supervised tokens are before training: of the probe's examples, which are the same for all runs of a variant but for the seed."""
    lines = []
    for variant in VARIANTS:
        run = found.results[(found.results["variant"] == variant) & (found.results["remedy"] == "standard")]["name"].iloc[0]
        own = found.tokens[(found.tokens["name"] == run) & (found.tokens["epoch"] == 0) & (found.tokens["set"] == "probe")]
        every, bins = own[own["group"] == "all"].iloc[0], own[own["group"] == "bin"]
        share = [short(bins[chosen]["num_tokens"].sum() / bins["num_tokens"].sum()) for chosen in (bins["upper"] <= 0.201, bins["lower"] >= 0.949)]
        lines.append([variant, f"{every['num_tokens'] / PROBE:.1f}", short(every["nll"]), *share])
    return table(["", "supervised tokens an example", "mean NLL", "p < .2", "p > .95"], lines)


def leak(found: Tables, variant: str) -> str:
    """General ability counted in several ways."""
    results = found.results[(found.results["variant"] == variant) & found.results["remedy"].isin(["base", "standard", "talr", "l2"])]
    suites = [name for name in results.columns if name.startswith("general/")]
    without = results[[name for name in suites if name != "general/rules"]].mean(axis=1)
    results = results.assign(without=without)
    columns = ["general/rules", "lenient/rules", "general", "without", "general_lenient"]
    lines = [[str(point), *(short(group[column].mean()) for column in columns)] for point, group in results.groupby("point", sort=False)]
    return table(["point", "rules", "rules, leniently", "general", "general without rules", "general, leniently"], lines)


def volumes(found: Tables) -> str:
    """Of the remedies themselves, without the controls, which have fewer points."""
    rows = pd.DataFrame(volume_rows(found.means[~found.means["remedy"].isin(CONTROLS)]))
    lines = []
    for remedy, group in rows.groupby("remedy", sort=False):
        own = group.set_index("variant")
        lines.append(
            [str(remedy), *(short(own["hypervolume"].get(variant)) for variant in VARIANTS), *(short(own["with_wise"].get(variant)) for variant in VARIANTS)]
        )
    sizes = rows.groupby("variant")["size"].first()
    heads = [f"{variant}, {sizes[variant]} points each" for variant in VARIANTS if variant in sizes]
    return table(["remedy", *heads, *(f"{variant}, with Wise-FT's points" for variant in VARIANTS)], lines)


def tables(found: Tables) -> dict[str, str]:
    of_variant: dict[str, Callable[[Tables, str], str]] = {
        "grid": grid,
        "wise": wise,
        "matched": matched,
        "within": within,
        "controls": controls,
        "leak": leak,
    }
    made = {f"{name} {variant}": make(found, variant) for name, make in of_variant.items() for variant in VARIANTS}
    return {**made, "start": start(found), "mean weights": mean_weights(found), "volumes": volumes(found)}


def filled(text: str, found: Tables) -> str:
    """The page with its tables as the numbers say."""
    for name, made in tables(found).items():
        text, places = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text, flags=re.DOTALL)
        if places != 1:
            raise ValueError(f"{PAGE.name} must have one place for the table `{name}`, it has {places}.")
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), read_tables(FOLDER)), encoding="utf-8")
