"""Everything that a report computes from its tables, as tables of its own."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lit_talr.report.items import run_answers
from lit_talr.report.kl import ABOVE, KL, kl_rows
from lit_talr.report.matched import MATCHED, matched_rows
from lit_talr.report.runs import Row
from lit_talr.report.tables import Tables, frame, write_tables
from lit_talr.report.transitions import TRANSITIONS, changed_items, transition_rows
from lit_talr.report.worlds import read_worlds


class Analysis(NamedTuple):
    """Tables that follow from those of a report; each is a Parquet file of its name, written next to the page.

    Args:
        matched: By variant, remedy and level: the general score at that domain score, see ``matched_rows``.
        transitions: By point and suite: shares of items that are lost and gained since the base model, see ``transition_rows``.
        changed_items: The items themselves by run, each right either ``before`` or ``after``.
        kl: By point: divergence from the base model, drop, and the drop of the common curve, see ``kl_rows``.
        above_curve: By variant and remedy: how far its points lie above that curve.
    """

    matched: pd.DataFrame
    transitions: pd.DataFrame
    changed_items: pd.DataFrame
    kl: pd.DataFrame
    above_curve: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write each table as a Parquet file."""
        write_tables(folder, self._asdict())


def analyse(tables: Tables) -> Analysis:
    """Compute the analysis of a report's tables; variants without a base model are left out."""
    answers = run_answers(tables.answers)
    matched: list[Row] = []
    transitions: list[Row] = []
    kl: list[Row] = []
    above: list[Row] = []
    worlds = list(read_worlds(tables, answers))
    for world in worlds:
        matched += matched_rows(world)
        transitions += transition_rows(world, answers)
        by_point, by_remedy = kl_rows(world)
        kl += by_point
        above += by_remedy
    return Analysis(
        matched=frame(matched, MATCHED),
        transitions=frame(transitions, TRANSITIONS),
        changed_items=changed_items(worlds, answers),
        kl=frame(kl, KL),
        above_curve=frame(above, ABOVE),
    )
