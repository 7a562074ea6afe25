"""The page: one HTML file with its data, its script and Plotly inside, which needs no network."""

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from lit_talr import __version__
from lit_talr.report.statistics import T_975
from lit_talr.report.tables import Tables
from lit_talr.report.volumes import volume_rows

FOLDER = Path(__file__).parent


def page(tables: Tables) -> str:
    """The page as a function of the tables alone: the same tables give the same bytes."""
    data = {
        "version": __version__,
        "t": T_975,
        "results": records(tables.results),
        "means": records(tables.means),
        "curves": records(tables.curves, digits=5),
        "pairs": pairs(tables.pairs),
        "tokens": {str(name): of_run(group) for name, group in tables.tokens.groupby("name", sort=False)},
        "volumes": volume_rows(tables.means),
        "notes": records(tables.notes),
    }
    text = (FOLDER / "page.html").read_text(encoding="utf-8")
    css, js = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = {"css": css, "js": js, "plotly": plotly(), "data": embed(data)}
    for name, part in parts.items():  # the data last: nothing in them is taken for a place to fill
        text = text.replace("{{" + name + "}}", part)
    return text


@cache
def plotly() -> str:
    """Plotly's script, gzipped, in base64: 1.9 MB instead of 4.8, which matters for pages that are kept in a repository. The browser unpacks it."""
    from plotly.offline import get_plotlyjs  # a tenth of a second, which only a report has to wait for

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def embed(data: Any) -> str:
    """JSON that no text in it can end, or begin a comment in, where it stands in a page."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def records(table: pd.DataFrame, digits: int | None = None) -> list[dict[str, Any]]:
    """Rows with None for what is missing."""
    return [{name: plain(value, digits) for name, value in row.items()} for row in table.to_dict("records")]


def plain(value: Any, digits: int | None = None) -> Any:
    if pd.isna(value):
        return None
    return round(value, digits) if digits is not None and isinstance(value, float) else value


def pairs(table: pd.DataFrame) -> dict[str, dict[str, list[float | None]]]:
    """By reference and point: difference, lower and upper bound of domain, then of general."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for reference, point, *numbers in table.itertuples(index=False):
        found.setdefault(reference, {})[point] = [plain(value, 5) for value in numbers]
    return found


def of_run(table: pd.DataFrame) -> dict[str, Any]:
    """What the page draws of a run's tokens."""
    every, bins = table[table["group"] == "all"], table[table["group"] == "bin"]
    cohorts = table[(table["group"] == "cohort") & (table["num_tokens"] > 0)]
    course = ["epoch", "weight", "share_above", "share_at_floor", "temperature"]
    return {
        "threshold": plain(table["threshold"].iloc[0]),
        "bins": {str(name): histogram(group) for name, group in bins.groupby("set")},
        "cohorts": [cohort(group) for _, group in cohorts.groupby("lower")],
        "course": records(every[every["set"] == "train"][course], 5),
    }


def histogram(table: pd.DataFrame) -> dict[str, Any]:
    first = table[table["epoch"] == table["epoch"].min()]
    return {
        "edges": [*first["lower"].tolist(), first["upper"].iloc[-1]],
        "epochs": {str(epoch): group["num_tokens"].tolist() for epoch, group in table.groupby("epoch")},
    }


def cohort(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "span": f"{table['lower'].iloc[0]:g} to {table['upper'].iloc[0]:g}",
        "tokens": int(table["num_tokens"].iloc[0]),
        "epochs": table["epoch"].tolist(),
        "probability": [plain(value, 5) for value in table["probability"]],
    }
