"""The means over seeds as a LaTeX table (booktabs)."""

from typing import Any

import pandas as pd

from lit_talr.report.runs import scientific

SIGNS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}
HEAD = r"""% Needs booktabs. In brackets the 95 % interval over items; after $\pm$ the standard error over seeds.
\begin{tabular}{lllrrrrr}
\toprule
variant & remedy & rate & $\alpha$ & seeds & domain & general & drop \\
\midrule
"""


def latex_table(means: pd.DataFrame) -> str:
    lines = []
    for row in means.to_dict("records"):
        remedy = f"{row['remedy']} ({row['source']})" if isinstance(row["source"], str) else row["remedy"]
        cells = [escape_text(row["variant"]), escape_text(remedy), "" if pd.isna(row["rate"]) else scientific(row["rate"])]
        cells += ["" if pd.isna(row["alpha"]) else f"{row['alpha']:g}", str(row["seeds"]), *(format_score(row, name) for name in ("domain", "general", "drop"))]
        lines.append(" & ".join(cells) + r" \\")
    return HEAD + "\n".join(lines) + "\n\\bottomrule\n\\end{tabular}\n"


def format_score(row: dict[str, Any], name: str) -> str:
    if pd.isna(row[name]):
        return "--"
    spread = "" if pd.isna(row[f"{name}_se"]) else rf" $\pm$ {row[f'{name}_se']:.3f}"
    bounds = "" if pd.isna(row[f"{name}_lower"]) else f" [{row[f'{name}_lower']:.3f}, {row[f'{name}_upper']:.3f}]"
    return f"{row[name]:.3f}{spread}{bounds}"


def escape_text(text: Any) -> str:
    """Text for LaTeX; empty where there is none."""
    return "".join(SIGNS.get(sign, sign) for sign in text) if isinstance(text, str) else ""
