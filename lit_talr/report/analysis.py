"""Everything that a report computes from its tables, as tables of its own."""

from typing import NamedTuple

import pandas as pd

from lit_talr.report.items import run_answers
from lit_talr.report.kl import ABOVE, KL, kl_rows
from lit_talr.report.matched import MATCHED, matched_rows
from lit_talr.report.tables import Tables, frame
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


def analyse(tables: Tables) -> Analysis:
    """Compute the analysis of a report's tables; variants without a base model are left out."""
    answers = run_answers(tables.answers)
    worlds = list(read_worlds(tables, answers))
    curves = [kl_rows(world) for world in worlds]
    return Analysis(
        matched=frame((row for world in worlds for row in matched_rows(world)), MATCHED),
        transitions=frame((row for world in worlds for row in transition_rows(world, answers)), TRANSITIONS),
        changed_items=changed_items(worlds, answers),
        kl=frame((row for points, _ in curves for row in points), KL),
        above_curve=frame((row for _, remedies in curves for row in remedies), ABOVE),
    )
