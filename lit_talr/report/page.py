"""The page: one HTML file with its data, its script and Plotly inside, which needs no network."""

import base64
import gzip
import json
from collections.abc import Iterator
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
        "tokens": token_statistics(tables.tokens),
        "volumes": volume_rows(tables.means),
        "matched": records(analysis.matched, DIGITS),
        "transitions": {name: plain(column, DIGITS) for name, column in analysis.transitions.items()},
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
    return [dict(zip(table, row, strict=True)) for row in rows(table, *table, digits=digits)]


def rows(table: pd.DataFrame, *names: str, digits: int | None = None) -> Iterator[tuple[Any, ...]]:
    """The rows of some columns."""
    return zip(*(plain(table[name], digits) for name in names), strict=True)


def plain(column: "pd.Series[Any]", digits: int | None = None) -> list[Any]:
    """The values of a column, rounded, with None for what is missing."""
    values = column.astype(object).where(column.notna(), None).tolist()
    return values if digits is None else [round(value, digits) if isinstance(value, float) else value for value in values]


def nested_pairs(table: pd.DataFrame) -> dict[str, dict[str, list[float | None]]]:
    """By reference and point: difference, lower and upper bound of domain, then of general."""
    pairs: dict[str, dict[str, list[float | None]]] = {}
    for reference, point, *numbers in rows(table, *table, digits=DIGITS):
        pairs.setdefault(reference, {})[point] = numbers
    return pairs


def token_statistics(tokens: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The drawn statistics of each run's tokens: histograms by set and epoch, cohorts, and the course of the training tokens' weights."""
    runs: dict[str, dict[str, Any]] = {
        name: {"threshold": threshold, "bins": {}, "cohorts": {}, "course": []} for name, threshold in rows(tokens.drop_duplicates("name"), "name", "threshold")
    }
    bins, cohorts, course = (tokens[tokens["group"] == group] for group in ("bin", "cohort", "all"))
    for name, of, epoch, lower, upper, number in rows(bins.sort_values(["set", "epoch"]), "name", "set", "epoch", "lower", "upper", "num_tokens"):
        histogram = runs[name]["bins"].setdefault(of, {"edges": [lower], "epochs": {}})
        histogram["epochs"].setdefault(str(epoch), []).append(number)
        if len(histogram["epochs"]) == 1:
            histogram["edges"].append(upper)
    cohorts = cohorts[cohorts["num_tokens"] > 0].sort_values("lower", kind="stable")
    for name, lower, upper, epoch, number, probability in rows(cohorts, "name", "lower", "upper", "epoch", "num_tokens", "probability", digits=DIGITS):
        cohort = {"span": f"{lower:g} to {upper:g}", "tokens": number, "epochs": [], "probability": []}
        cohort = runs[name]["cohorts"].setdefault(lower, cohort)
        cohort["epochs"].append(epoch)
        cohort["probability"].append(probability)
    course = course[course["set"] == "train"]
    for name, row in zip(course["name"], records(course[["epoch", "weight", "share_above", "share_at_floor", "temperature"]], DIGITS), strict=True):
        runs[name]["course"].append(row)
    return {name: {**run, "cohorts": [*run["cohorts"].values()]} for name, run in runs.items()}
