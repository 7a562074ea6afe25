"""Tables in Markdown, and the numbers in them."""

import re
from collections.abc import Sequence

import pandas as pd


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(value: float | None, sign: bool = False) -> str:
    """Format with three digits, as in ``.536``."""
    if value is None or pd.isna(value):
        return "-"
    return re.sub(r"(?<!\d)0\.", ".", f"{value:{'+' if sign else ''}.3f}")


def interval(value: float, lower: float, upper: float, sign: bool = False) -> str:
    """A value with its interval, where it has one, as in ``.536 [.486, .585]``."""
    return short(value, sign) if pd.isna(lower) else f"{short(value, sign)} [{short(lower)}, {short(upper)}]"
