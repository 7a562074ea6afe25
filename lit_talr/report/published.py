"""Published points of other people's runs, to be drawn hollow next to one's own."""

from pathlib import Path

import pandas as pd

from lit_talr.utils.errors import first_line
from lit_talr.utils.files import write_text

COLUMNS = {"name": "object", "domain": "float64", "forgetting": "float64", "source": "object"}
"""The columns of a file of published points; ``forgetting`` is by how much the NLL of a general corpus has risen, in nats per token."""
FORGETTING = "drift/nll_rise/"
"""The beginning of the names of the same number of one's own runs."""
FILE = "published.csv"
"""Its name next to the page, so that the page can be made again."""


def read_published(file: Path) -> pd.DataFrame:
    """Read published points from a CSV with ``COLUMNS``; lines that begin with # are remarks.

    Raises:
        ValueError: For a file that cannot be read, another column, no points, and a number that is none.
    """
    way_out = f"give a CSV with the columns {', '.join(COLUMNS)}"
    try:
        table = pd.read_csv(file, comment="#")
    except (OSError, ValueError) as error:
        raise ValueError(f"`published`: {file} cannot be read ({first_line(error)}); {way_out}.") from error
    if list(table) != list(COLUMNS) or table.empty:
        raise ValueError(f"`published`: {file} has {len(table)} points with the columns {', '.join(map(str, table))}; {way_out}.")
    for name, kind in COLUMNS.items():
        values = pd.to_numeric(table[name], errors="coerce") if kind == "float64" else table[name]
        if values.isna().any():
            raise ValueError(f"`published`: {file}, point {int(values.isna().argmax()) + 1}: `{name}` is missing or no number; fill it in or remove the point.")
        table[name] = values.astype(kind)
    return table


def place_published(given: Path | None, earlier: Path | None, folder: Path) -> pd.DataFrame | None:
    """The published points of a report, those of an earlier one where none are given, and the same next to the page."""
    source = given or (earlier / FILE if earlier is not None and (earlier / FILE).is_file() else None)
    if source is None:
        (folder / FILE).unlink(missing_ok=True)
        return None
    table = read_published(source)
    write_text(folder / FILE, table.to_csv(index=False))
    return table


def forgetting_columns(results: pd.DataFrame) -> list[str]:
    """The columns of the rise of a corpus's NLL, in which some run has a number."""
    return [str(name) for name in results if str(name).startswith(FORGETTING) and results[name].notna().any()]
