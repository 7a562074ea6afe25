"""Writes the tables and figures of the pages below from the results beside them: ``python -m docs.make_tables`` (``make docs``). A test checks the tables.

A table lies between ``<!-- NAME -->`` and ``<!-- /NAME -->``; the text around it is written by hand.
"""

import re
from pathlib import Path

from docs.tables.diagnose import diagnose_tables
from docs.tables.real import real_tables
from docs.tables.remedies import remedy_tables
from docs.tables.study import study_tables
from docs.tables.talr_figures import draw_talr
from docs.tables.when_talr_helps import talr_tables

ROOT = Path(__file__).parents[1]
PAGES = {
    "docs/diagnose": diagnose_tables,
    "docs/real": real_tables,
    "docs/study": study_tables,
    "docs/when_talr_helps": talr_tables,
    "benchmarks/results/remedies-cpu": remedy_tables,
}
"""The makers of a page's tables by its name, which is also that of the folder of its results. Each gets that folder."""


def filled(page: str) -> str:
    """A page with its tables filled in from the numbers."""
    text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
    for name, made in PAGES[page](ROOT / page).items():
        parts = re.split(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", text, flags=re.DOTALL)
        if len(parts) != 2:
            raise ValueError(f"{page}.md must have one place for the table `{name}`, it has {len(parts) - 1}.")
        text = f"{parts[0]}{made}\n{parts[1]}"
    return text


if __name__ == "__main__":
    draw_talr(ROOT / "docs" / "when_talr_helps")
    for name in PAGES:
        (ROOT / f"{name}.md").write_text(filled(name), encoding="utf-8")
