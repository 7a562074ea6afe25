"""The tables of docs/real.md."""

from pathlib import Path

import pandas as pd

from docs.tables.markdown import interval, table
from lit_talr.report.runs import scientific
from lit_talr.report.tables import Tables, read_tables

REMEDIES = ("base", "standard", "talr", "l2", "lora", "wise-ft")
BITS = "drift/bits_per_byte/wikitext2_test"


def trade_offs(tables: Tables) -> str:
    """Domain and general score, code length of WikiText and divergence of each run, with 95 % intervals over items."""
    runs = tables.results.assign(order=tables.results["remedy"].map(REMEDIES.index)).sort_values(["order", "rate"])
    base = runs.set_index("name")[BITS]["base"]
    lines = []
    for run in runs.to_dict("records"):
        remedy = run["remedy"] if pd.isna(run["alpha"]) else f"{run['remedy']}, alpha {run['alpha']:g}"
        scores = [interval(run[name], run[f"{name}_lower"], run[f"{name}_upper"]) for name in ("domain", "general")]
        rate = "-" if pd.isna(run["rate"]) else scientific(run["rate"])
        lines.append([remedy, rate, *scores, f"{run[BITS]:.4f}", f"{run[BITS] - base:+.4f}", f"{run['drift/kl']:.4f}"])
    return table(["remedy", "rate", "macro-F1 of ESCI", "MMLU", "bits per byte", "minus the base's", "KL, nats a token"], lines)


def real_tables(folder: Path) -> dict[str, str]:
    """Every table of the page by its name."""
    return {"trade-offs": trade_offs(read_tables(folder))}
