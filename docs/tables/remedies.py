"""The tables of benchmarks/results/remedies-cpu.md."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from docs.tables.markdown import interval, short, table
from lit_talr.report.analysis import Analysis, analyse
from lit_talr.report.matched import general_at
from lit_talr.report.runs import scientific
from lit_talr.report.statistics import t_interval
from lit_talr.report.tables import Tables, read_tables

LEVEL = 0.75
"""Of the way from the base model's domain score to Standard's best one."""
HEAD = ["remedy", "rate", "domain", "general", "KL", "largest domain score", "general at the level", "minus Standard's"]


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Of each remedy the run with the least ``val/nll``, and of a merge the one of that run; a merge has no ``val/nll`` of its own."""
    own = dict(zip(results["name"], results["val/nll"], strict=True))
    nll = results["val/nll"].fillna(results["of"].map(own)).fillna(0.0)
    return results.loc[nll.groupby([results["remedy"], results["source"].fillna("")], sort=False).idxmin()]


def by_remedy(tables: Tables, analysis: Analysis, variant: str) -> str:
    """Each remedy at its chosen rate, and over its rates at the level; those with more general score there first."""
    rows = chosen(tables.results[tables.results["variant"] == variant])
    at_level = analysis.matched[(analysis.matched["variant"] == variant) & (analysis.matched["share"] == LEVEL)]

    def line(row: dict[str, Any]) -> tuple[float, list[str]]:
        found = at_level[(at_level["remedy"] == row["remedy"]) & (at_level["source"].fillna("") == (row["source"] or ""))]
        found = found[found["line"].str.endswith(f" {scientific(row['rate'])}")] if row["source"] else found
        best = found.iloc[0] if len(found) else None
        name = row["remedy"] + (f" of {row['source']}, alpha {row['alpha']:g}" if row["source"] else "")
        cells = [name, "-" if pd.isna(row["rate"]) else scientific(row["rate"]), short(row["domain"]), short(row["general"]), short(row.get("drift/kl"))]
        if best is None:
            return 1.0 if row["remedy"] == "base" else -1.0, [*cells, "-", "-", "-"]
        matched = [short(best["best"]), interval(best["general"], best["general_lower"], best["general_upper"]) if best["reached"] else "not reached"]
        more = interval(best["more"], best["more_lower"], best["more_upper"], sign=True) if best["reached"] else "-"
        return best["general"] if best["reached"] else best["best"] - 1.0, [*cells, *matched, more]

    lines = [line(row) for row in rows.astype(object).where(rows.notna(), None).to_dict("records")]
    return table(HEAD, [cells for _, cells in sorted(lines, key=lambda pair: -pair[0])])


def curve(analysis: Analysis, variant: str) -> str:
    """How far each remedy's points lie above the common curve of general score by KL."""
    rows = analysis.above_curve[analysis.above_curve["variant"] == variant].sort_values("above", ascending=False)
    cells = [
        [row.remedy, str(row.points), f"{short(row.kl_least)} to {short(row.kl_most)}", interval(row.above, row.above_lower, row.above_upper, sign=True)]
        for row in rows.itertuples()
    ]
    return table(["remedy", "points", "KL", "general score above the curve"], cells)


def at_level(results: pd.DataFrame) -> dict[str, float]:
    """Of the runs of one seed: each remedy's general score at the level less Standard's there. Remedies that do not reach it are left out."""
    (base,) = results.loc[results["remedy"] == "base", ["domain", "general"]].to_numpy(float)
    lines = {
        str(name): np.vstack([base, runs.sort_values("rate")[["domain", "general"]].to_numpy(float)])
        for name, runs in results[results["rate"].notna() & results["source"].isna()].groupby("remedy")
    }
    level = base[0] + LEVEL * (lines["standard"][:, 0].max() - base[0])
    found = {name: general_at(line[None, :, 0], line[None, :, 1], level) for name, line in lines.items()}
    return {name: float((general - found["standard"][0])[0]) for name, (general, reached) in found.items() if reached[0]}


def by_seed(first: pd.DataFrame, more: pd.DataFrame, variant: str) -> str:
    """The remedies that were run again with other seeds: what they have more than Standard at its level, in each seed."""
    first, more = (results[results["variant"] == variant] for results in (first, more))
    remedies = [name for name in more["remedy"].unique() if name not in ("base", "standard")]
    runs = pd.concat([first[first["seed"].notna() & first["remedy"].isin(more["remedy"])], more[more["seed"].notna()]])
    seeds = {int(seed): at_level(pd.concat([first[first["remedy"] == "base"], of_seed])) for seed, of_seed in runs.groupby("seed")}

    def line(name: str) -> list[str]:
        values = [found[name] for found in seeds.values() if name in found]
        ends = t_interval(values) if len(values) == len(seeds) else None
        mean = interval(sum(values) / len(values), *(ends or (None, None)), sign=True) if values else "-"
        return [name, *(short(found[name], sign=True) if name in found else "not reached" for found in seeds.values()), mean]

    return table(["remedy", *(f"seed {seed}" for seed in seeds), "mean, over seeds"], [line(name) for name in remedies])


def remedy_tables(folder: Path) -> dict[str, str]:
    """The tables of the page by name, from the tables of a report."""
    variants = {"clean": "clean", "noisy": "words-0.1"}
    if not (folder / "results.parquet").is_file():
        return {f"{name}{end}": "No results yet." for name in variants for end in ("", " curve", " seeds")}
    tables = read_tables(folder)
    analysis = analyse(tables)
    seeds = pd.read_parquet(folder / "seeds" / "results.parquet")
    found = {name: by_remedy(tables, analysis, variant) for name, variant in variants.items()}
    found |= {f"{name} curve": curve(analysis, variant) for name, variant in variants.items()}
    return found | {f"{name} seeds": by_seed(tables.results, seeds, variant) for name, variant in variants.items()}
