"""Leaves out the points that an earlier report has."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lit_talr.sweep.identity import code_key
from lit_talr.sweep.points import Point


def leave_out_stored(points: Sequence[Point], folder: Path, same_code: Sequence[str]) -> list[Point]:
    """The points that are still to be run; what is left out, and why the rest is not, is printed.

    A trial stays where a point of Wise-FT that needs its weights does.

    Args:
        points: All points.
        folder: Of the earlier report.
        same_code: Keys of other code that gives the same numbers.

    Raises:
        ValueError: For a report without keys.
    """
    stored = read_stored(folder)
    known = {point.key: stored[point.key] for point in points if point.key in stored}
    code = code_key()
    found = {key for key, made_by in known.items() if made_by in (code, *same_code)}
    left = [point for point in points if point.key not in found]
    needed = {point.of for point in left}
    left = [point for point in points if point in left or point.name in needed]
    print(f"{folder} has {len(points) - len(left)} of {len(points)} points.")
    for other, count in Counter(made_by for key, made_by in known.items() if key not in found).items():
        print(f"{count} more were made by other code and are run again; if it gives the same numbers, say so: --same-code {other} (this code is {code}).")
    return left


def read_stored(folder: Path) -> dict[str, str]:
    """The code that made each point of the report, by the point's key; empty where there is no report yet."""
    import pandas as pd  # half a second that other sweeps need not wait

    file = folder / "results.parquet"
    if not file.is_file():
        print(f"{folder} has no results.parquet yet.")
        return {}
    table = pd.read_parquet(file)
    if not {"key", "code"} <= set(table.columns):
        raise ValueError(f"`--stored`: {file} was written by an earlier version, without the keys of its runs; make the report again from the runs.")
    table = table[table["key"].notna() & table["code"].notna()]
    return dict(zip(table["key"], table["code"], strict=True))
