"""The runs of an earlier report, from its tables, so that further runs can join them."""

from pathlib import Path

import pandas as pd

from lit_talr.report.comparable import DOMAIN, GENERAL
from lit_talr.report.items import answers_of
from lit_talr.report.runs import Row, Run
from lit_talr.report.scores import ANSWERS, Scored
from lit_talr.utils.score import Score

COPIED = ("name", "variant", "remedy", "source", "rate", "seed", "alpha", "of", "command", "paper_domain", "paper_general", "steps", "rows", "num_rows")

GONE = Path()
"""The folder of a run that is known from its tables alone."""


def earlier_runs(results: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Scored]:
    """The runs in the tables ``results`` and ``answers`` by name, each without its marks: these depend on the other runs of a report."""
    by_name = {str(name): table for name, table in answers.groupby("name", sort=False)}
    rows = results.astype(object).where(results.notna(), None).to_dict("records")
    return {row["name"]: earlier_run({str(name): value for name, value in row.items()}, by_name.get(row["name"], answers[:0])) for row in rows}


def earlier_run(row: Row, items: pd.DataFrame) -> Scored:
    """One run from its row and its answers."""
    parts = {str(name): table.reset_index(drop=True) for name, table in items.groupby("score", sort=False)}
    scores = {
        key: Score(row[name], row["steps"], row["weights"], row["base_model"], row["arithmetic"], len(parts.get(name, ())) or None, None, row[f"{name}_items"])
        for key, name in ((DOMAIN, "domain"), (GENERAL, "general"))
        if row[name] is not None
    }
    answers = {name: answers_of(table) for name, table in parts.items()}
    general, base = answers.get("general"), answers.get("general of the base")
    run = Run(
        **{name: row[name] for name in COPIED},
        folder=GONE,
        base=None,
        fit={},
        test={key: score.value for key, score in scores.items()},
        scores=scores,
        key=row.get("key"),
        code=row.get("code"),
    )
    return Scored(run, row, {"domain": answers.get("domain"), "general": general, "drop": base.minus(general) if base else None}, items[ANSWERS])


def general_answers(scored: Scored) -> pd.DataFrame | None:
    """The general answers of an earlier run."""
    items = scored.items[scored.items["score"] == "general"]
    return None if items.empty else items.reset_index(drop=True)


def rows_of(table: pd.DataFrame, name: str) -> list[Row]:
    """The rows of a run in another table."""
    return [{str(column): value for column, value in row.items()} for row in table[table["name"] == name].to_dict("records")]
