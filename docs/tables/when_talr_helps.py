"""The tables of docs/when_talr_helps.md. They have a line for what is there: the study may still be running."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from docs.tables.markdown import interval, short, table
from docs.tables.talr_cells import SCORES, Cells, Difference, Point, difference, read_cells
from lit_talr.report.items import Answers, average
from lit_talr.report.runs import scientific
from lit_talr.report.statistics import t_interval

RATES = (2e-4, 5e-4, 1e-3, 2e-3)
LARGE = 2e-3
FRESH = 4
"""The first seed that nothing was chosen on."""
CLAIM = ("words-0.1", "words-0.2")
KINDS, PLACEMENTS = ("words", "phrases", "plausible"), ("anywhere", "starts")
OURS = {"talr": "TALR", "talr-least": "TALR (2 or more)"}
GROUPS = ("noise", "hard", "between", "easy")
SHOWN = ("clean", "words-0.1", "words-0.1-starts", "words-0.2", "phrases-0.1", "plausible-0.1")
"""The variants whose tokens are shown by group."""
FIGURES = {
    "phase figure": "![TALR minus Standard by share of noise and learning rate](when_talr_helps/figures/phase.png)",
    "temperature figure": "![TALR's temperature beside the NLL of hard tokens, noise and easy tokens](when_talr_helps/figures/temperature.png)",
}
"""The figures are linked where there are results."""
TABLES = ("claim", "skills", "everywhere", "placement", "matched", "rivals", "tokens", "temperature")


def variants(cells: Cells) -> list[str]:
    """The variants of the data, from clean rows to other noise; cold starts first."""
    kinds = ("clean", *KINDS)

    def order(name: str) -> tuple[bool, int, float, str]:
        parts = name.split("-")
        return parts[-1] in ("768", "warm", "epochs"), kinds.index(parts[0]), noise_share(name), name

    return sorted(cells.runs["variant"].unique(), key=order)


def noise_share(variant: str) -> float:
    """The share of noise in a variant's name."""
    found = re.search(r"0\.\d+", variant)
    return float(found[0]) if found else 0.0


def shown(found: Difference | None) -> str:
    """A difference, bold where its interval does not contain 0."""
    if found is None:
        return "-"
    text = interval(*found[:3], sign=True)
    return f"**{text}**" if found.is_clear else text


def claim(cells: Cells) -> str:
    """TALR minus Standard at the same rate, seed by seed and pooled."""
    lines = []
    for variant in CLAIM:
        for rate in (LARGE, 1e-3):
            standard = cells.seeds(Point(variant, "standard", rate))
            by_seed = {remedy: cells.by_seed(Point(variant, remedy, rate), Point(variant, "standard", rate)) for remedy in OURS}
            for seed in sorted(set().union(*by_seed.values())):
                scores = " / ".join(short(float(standard[seed][score])) for score in SCORES)  # type: ignore[arg-type]
                pairs = [difference(parts[seed][score], 1) if seed in parts else None for parts in by_seed.values() for score in SCORES]
                lines.append([variant, scientific(rate), str(seed), scores, *map(shown, pairs)])
            for name, first in {"all": 0, f"fresh ({FRESH} and more)": FRESH}.items():
                parts = [{seed: part for seed, part in those.items() if seed >= first} for those in by_seed.values()]
                for more, of in {"": over_items, ", over seeds": over_seeds}.items():
                    found = [of(those, score) for those in parts for score in SCORES]
                    if any(found):
                        lines.append([variant, scientific(rate), name + more, "", *map(shown, found)])
    return table(["noise", "rate", "seed", "Standard", *(f"{name}: {score}" for name in OURS.values() for score in SCORES)], lines)


def over_items(by_seed: dict[int, dict[str, Answers]], score: str) -> Difference | None:
    """The mean difference over the seeds with its interval over items; None without any."""
    mean = average([parts[score] for parts in by_seed.values()])
    return None if mean is None else difference(mean, len(by_seed))


def over_seeds(by_seed: dict[int, dict[str, Answers]], score: str) -> Difference | None:
    """The mean difference with Student's interval over the seeds; None for fewer than three."""
    values = [difference(parts[score], 1).value for parts in by_seed.values()]
    found = t_interval(values) if len(values) > 2 else None
    return None if found is None else Difference(sum(values) / len(values), *found, len(values))


def skills(cells: Cells) -> str:
    """TALR minus Standard at the same rate in each general skill, pooled over seeds."""
    lines, names = [], []
    for variant in CLAIM:
        for rate in (LARGE, 1e-3):
            parts = [part["general"] for part in cells.by_seed(Point(variant, "talr", rate), Point(variant, "standard", rate)).values()]
            mean = average(parts)
            if mean is None:
                continue
            suites = mean.keys["suite"].astype(str)
            names = sorted(suites.unique())
            own = {name: mean._replace(groups=np.zeros(int((suites == name).sum()), dtype=int), values=mean.values[suites == name]) for name in names}
            lines.append([variant, scientific(rate), str(len(parts)), *(shown(difference(own[name], len(parts))) for name in names)])
    return table(["noise", "rate", "seeds", *names], lines)


def everywhere(cells: Cells) -> str:
    """TALR minus Standard at the same rate in every cell, pooled over seeds."""
    lines = []
    for variant in variants(cells):
        for rate in reversed(RATES):
            pooled = [cells.pooled(Point(variant, remedy, rate), Point(variant, "standard", rate)) for remedy in OURS]
            if not any(pooled):
                continue
            seeds = max(found.num_seeds for parts in pooled for found in parts.values())
            means = [mean_scores(cells, Point(variant, remedy, rate)) for remedy in ("standard", *OURS)]
            lines.append([variant, scientific(rate), str(seeds), *means, *(shown(parts.get(score)) for parts in pooled for score in SCORES)])
    names = [f"{name} - Standard: {score}" for name in OURS.values() for score in SCORES]
    return table(["noise", "rate", "seeds", "Standard", *OURS.values(), *names], lines)


def mean_scores(cells: Cells, point: Point) -> str:
    """Domain and general score of a point, means over seeds."""
    runs = cells.seeds(point)
    means = pd.DataFrame([*runs.values()])[[*SCORES]].astype(float).mean() if runs else None
    return "-" if means is None else " / ".join(short(means[score]) for score in SCORES)


def placement(cells: Cells) -> str:
    """TALR minus Standard by what noise is and where it stands, at a tenth of noise and the large rate; and how much the place matters."""
    lines = []
    for kind in KINDS:
        names = [f"{kind}-0.1", f"{kind}-0.1-starts"]
        by_seed = [cells.by_seed(Point(name, "talr", LARGE), Point(name, "standard", LARGE)) for name in names]
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        if seeds:
            pooled = [{score: average([parts[seed][score] for seed in seeds]) for score in SCORES} for parts in by_seed]
            cells_of = [
                [shown(difference(parts[score], len(seeds))) for parts in pooled] + [shown(between(*by_seed, score))]  # type: ignore[arg-type]
                for score in SCORES
            ]
            lines.append([kind, str(len(seeds)), *(cell for part in cells_of for cell in part)])
    return table(["noise", "seeds", *(f"{score}: {name}" for score in SCORES for name in (*PLACEMENTS, "anywhere - starts"))], lines)


def between(first: dict[int, dict[str, Answers]], second: dict[int, dict[str, Answers]], score: str) -> Difference | None:
    """How much larger one difference is than another, over the seeds that both have."""
    seeds = sorted(first.keys() & second.keys())
    means = [average([parts[seed][score] for seed in seeds]) for parts in (first, second)]
    if means[0] is None or means[1] is None:
        return None
    half = means[0]._replace(values=(means[0].values - means[1].values) / 2, least=-1.0)  # in [-1, 1], where the interval is known
    found = difference(half, len(seeds))
    return Difference(2 * found.value, 2 * found.lower, 2 * found.upper, len(seeds))


def matched(cells: Cells) -> str:
    """The general score minus Standard's where it first reaches the same domain score."""
    lines = []
    for variant in variants(cells):
        for rate in reversed(RATES):
            found = {remedy: cells.matched(Point(variant, remedy, rate)) for remedy in OURS}
            if any(found.values()):
                texts = ["-" if one is None else shown(one.difference) + ("" if one.reached else ", beyond") for one in found.values()]
                seeds = max(one.difference.num_seeds for one in found.values() if one is not None)
                lines.append([variant, scientific(rate), str(seeds), *texts])
    return table(["noise", "rate", "seeds", *(f"{name}: general at Standard's domain score" for name in OURS.values())], lines)


def rivals(cells: Cells) -> str:
    """TALR at each of two rates minus everything else that was trained on the same rows, other lengths of training included."""
    lines = []
    for noise in ("clean", *CLAIM):
        for variant in (name for name in variants(cells) if re.fullmatch(rf"{noise}(-\d+-epochs)?", name)):
            for point in (own for own in cells.points(variant) if own.remedy not in OURS):
                found = [cells.pooled(Point(noise, "talr", rate), point) for rate in (LARGE, 1e-3)]
                if any(found):
                    seeds = str(max(parts["domain"].num_seeds for parts in found if parts))
                    parts = [shown(parts.get(score)) for parts in found for score in SCORES]
                    lines.append([variant, point.remedy, scientific(point.rate or 0.0), seeds, mean_scores(cells, point), *parts])
    names = [f"TALR at {scientific(rate)} - it: {score}" for rate in (LARGE, 1e-3) for score in SCORES]
    return table(["noise", "remedy", "rate", "seeds", "which has", *names], lines)


def by_group(cells: Cells, variant: str, remedy: str, rate: float = LARGE) -> pd.DataFrame:
    """The probe's tokens by epoch and group, means over seeds; empty without runs."""
    names = [str(run["name"]) for run in cells.seeds(Point(variant, remedy, rate)).values()]
    probe = cells.tokens[cells.tokens["name"].isin(names) & (cells.tokens["set"] == "probe")]
    columns = [name for name in ("num_tokens", "nll", "base_nll", "weight", "gradient_share", "sequence_median") if name in probe]
    return probe[probe["group"].isin((*GROUPS, "all"))].groupby(["epoch", "group"])[columns].mean()


def tokens(cells: Cells) -> str:
    """NLL, weight and share of the gradient of each group of the probe's tokens: under the base model, and after the last epoch."""
    lines = []
    for variant in (name for name in variants(cells) if name in SHOWN):
        for remedy in ("standard", *OURS) if variant == "clean" else ("standard", "talr"):
            rows = by_group(cells, variant, remedy)
            if rows.empty or "gradient_share" not in rows:
                continue
            last = rows.index.get_level_values("epoch").max()
            total = sum(rows["num_tokens"].get((0, group), 0.0) for group in GROUPS)
            for group in (name for name in GROUPS if rows["num_tokens"].get((0, name), 0.0)):
                values = [rows[column][epoch, group] for column in ("nll", "weight", "gradient_share") for epoch in (0, last)]
                lines.append([variant, remedy, group, short(rows["num_tokens"][0, group] / total), *map(short, values)])
    head = ["noise", "remedy", "tokens", "share", "NLL before", "NLL after", "weight before", "weight after", "share of the gradient before", "share after"]
    return table(head, lines)


def temperature(cells: Cells) -> str:
    """TALR's temperature in the first and the last epoch, beside the NLL of what is to be learned and of the noise."""
    lines = []
    for variant in variants(cells):
        rows, used = by_group(cells, variant, "talr"), temperatures(cells, variant)
        if rows.empty or used.empty:
            continue
        last = rows.index.get_level_values("epoch").max()
        nll = [rows["nll"].get((epoch, group)) for group in ("hard", "noise") for epoch in (0, last)]
        lines.append([variant, *(short(value) for value in (used.iloc[0], used.iloc[-1], *nll))])
    return table(["noise", "temperature: first epoch", "last", "NLL of hard tokens: base", "end", "NLL of noise: base", "end"], lines)


def temperatures(cells: Cells, variant: str, remedy: str = "talr", rate: float = LARGE) -> "pd.Series[float]":
    """The mean temperature of each epoch."""
    names = [str(run["name"]) for run in cells.seeds(Point(variant, remedy, rate)).values()]
    rows = cells.tokens[cells.tokens["name"].isin(names) & (cells.tokens["set"] == "train") & (cells.tokens["group"] == "all")]
    return rows.groupby("epoch")["temperature"].mean().dropna()


def talr_tables(folder: Path) -> dict[str, str]:
    """Every table and figure of the page by its name."""
    if not (folder / "results.parquet").is_file():
        return dict.fromkeys((*TABLES, *FIGURES), "No results yet.")
    cells = read_cells(folder)
    makers = (claim, skills, everywhere, placement, matched, rivals, tokens, temperature)
    return {name: make(cells) for name, make in zip(TABLES, makers, strict=True)} | FIGURES
