"""The tables of benchmarks/results/remedies-cpu.md."""

from pathlib import Path
from typing import Any

import pandas as pd

from docs.tables.markdown import interval, short, table
from lit_talr.report.analysis import Analysis, analyse
from lit_talr.report.runs import scientific
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


def remedy_tables(folder: Path) -> dict[str, str]:
    """The tables of the page by name, from the tables of a report."""
    variants = {"clean": "clean", "noisy": "words-0.1"}
    if not (folder / "results.parquet").is_file():
        return {f"{name}{end}": "No results yet." for name in variants for end in ("", " curve")}
    tables = read_tables(folder)
    analysis = analyse(tables)
    return {name: by_remedy(tables, analysis, variant) for name, variant in variants.items()} | {
        f"{name} curve": curve(analysis, variant) for name, variant in variants.items()
    }
