"""The page: one HTML file with its data, its script and Plotly inside, which needs no network."""

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from lit_talr import __version__
from lit_talr.report.analysis import Analysis
from lit_talr.report.statistics import T_975
from lit_talr.report.tables import Tables
from lit_talr.report.volumes import volume_rows

DIGITS = 5
"""Decimals of numbers that are only drawn."""


def page(tables: Tables, analysis: Analysis, published: pd.DataFrame | None = None) -> str:
    """The page as a function of the tables, their analysis and published points alone: the same tables give the same bytes."""
    data = {
        "version": __version__,
        "t": T_975,
        "results": records(tables.results),
        "means": records(tables.means),
        "curves": records(tables.curves, DIGITS),
        "pairs": nested_pairs(tables.pairs),
        "tokens": {str(name): token_statistics(table) for name, table in tables.tokens.groupby("name", sort=False)},
        "volumes": volume_rows(tables.means),
        "matched": records(analysis.matched, DIGITS),
        "transitions": {name: [plain(value, DIGITS) for value in analysis.transitions[name].tolist()] for name in analysis.transitions},
        "kl": records(analysis.kl),
        "above_curve": records(analysis.above_curve, DIGITS),
        "published": [] if published is None else records(published),
        "notes": records(tables.notes),
    }
    return assemble_page(Path(__file__).parent, {"plotly": packed_plotly()}, data)


def assemble_page(folder: Path, parts: dict[str, str], data: Any) -> str:
    """Fill the places ``{{...}}`` of a folder's page.html with its page.css and page.js, with parts, and with data."""
    text, css, js = ((folder / f"page.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js"))
    for name, part in {"css": css, "js": js, **parts, "data": embed(data)}.items():  # the data last: nothing in them is taken for a place to fill
        text = text.replace("{{" + name + "}}", part)
    return text


@cache
def packed_plotly() -> str:
    """Plotly's script, gzipped, in base64: 1.9 MB instead of 4.8, which matters for pages in a repository. The browser unpacks it."""
    from plotly.offline import get_plotlyjs  # a tenth of a second, which only a report has to wait for

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def embed(data: Any) -> str:
    """JSON for a page: no text in it can end it, or begin a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def records(table: pd.DataFrame, digits: int | None = None) -> list[dict[str, Any]]:
    """Rows with None for what is missing."""
    return [{name: plain(value, digits) for name, value in row.items()} for row in table.to_dict("records")]


def plain(value: Any, digits: int | None = None) -> Any:
    if pd.isna(value):
        return None
    return round(value, digits) if digits is not None and isinstance(value, float) else value


def nested_pairs(table: pd.DataFrame) -> dict[str, dict[str, list[float | None]]]:
    """By reference and point: difference, lower and upper bound of domain, then of general."""
    pairs: dict[str, dict[str, list[float | None]]] = {}
    for reference, point, *numbers in table.itertuples(index=False):
        pairs.setdefault(reference, {})[point] = [plain(value, DIGITS) for value in numbers]
    return pairs


def token_statistics(table: pd.DataFrame) -> dict[str, Any]:
    """The drawn statistics of a run's tokens."""
    groups = {name: table[table["group"] == name] for name in ("all", "bin", "cohort")}
    cohorts = groups["cohort"][groups["cohort"]["num_tokens"] > 0]
    train = groups["all"][groups["all"]["set"] == "train"]
    return {
        "threshold": plain(table["threshold"].iloc[0]),
        "bins": {str(name): histogram(bins) for name, bins in groups["bin"].groupby("set")},
        "cohorts": [cohort(rows) for _, rows in cohorts.groupby("lower")],
        "course": records(train[["epoch", "weight", "share_above", "share_at_floor", "temperature"]], DIGITS),
    }


def histogram(table: pd.DataFrame) -> dict[str, Any]:
    first = table[table["epoch"] == table["epoch"].min()]
    epochs = {str(epoch): group["num_tokens"].tolist() for epoch, group in table.groupby("epoch")}
    return {"edges": [*first["lower"].tolist(), first["upper"].iloc[-1]], "epochs": epochs}


def cohort(table: pd.DataFrame) -> dict[str, Any]:
    span = f"{table['lower'].iloc[0]:g} to {table['upper'].iloc[0]:g}"
    probability = [plain(value, DIGITS) for value in table["probability"]]
    return {"span": span, "tokens": int(table["num_tokens"].iloc[0]), "epochs": table["epoch"].tolist(), "probability": probability}
