"""Run folders as six tables: page and figures are made from nothing else."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.earlier import GONE, earlier_runs, general_answers, rows_of
from lit_talr.report.runs import Row
from lit_talr.report.scores import ANSWERS, BY_GROUP, SCORES, SHARED, TOKENS, Scored, mean_row, pair_rows, read_curve, read_tokens, score_run
from lit_talr.report.selection import base_of, select_runs
from lit_talr.utils.files import write_bytes

BOUNDS = ("", "_lower", "_upper")
RESULTS = ["name", "point", "variant", "remedy", "source", "rate", "seed", "alpha", "of", "trained", *(f"{name}{end}" for name in SCORES for end in BOUNDS)]
BELONGS = ["weights", "base_model", "arithmetic", "domain_items", "general_items", "rows", "num_rows"]
REST = ["general_lenient", "val/score", "val/nll", "update/visible", "steps", *BELONGS, "paper_domain", "paper_general", "command", "key", "code"]
"""The last columns of the results, after those of suites and drift. ``general_lenient`` is the mean over suites by a lenient reader (``ExactMatch``)."""
MEANS = [*SHARED, "seeds", *(f"{name}{end}" for name in SCORES for end in (*BOUNDS, "_se", "_seeds_lower", "_seeds_upper"))]
PAIRS = ["reference", "point", *(f"{name}{end}" for name in ("domain", "general") for end in BOUNDS)]
TYPES = dict.fromkeys(
    ("name", "point", "variant", "remedy", "source", "of", "command", "key", "code", "reference", "set", "group", "sentence", "score", "suite", "line"),
    "object",
)
TYPES |= dict.fromkeys(BELONGS[:-1], "object")
TYPES |= {"trained": "bool", "reached": "bool", **dict.fromkeys(("seed", "seeds", "steps", "num_rows", "epoch", "num_tokens", "items", "points"), "Int64")}


class Tables(NamedTuple):
    """The tables of a report; each is a Parquet file of its name.

    Args:
        results: A row for each run.
        means: A row for each point: means over its seeds, with intervals over items and over seeds.
        curves: Validation scores of domain and general suites by run and epoch, see ``read_curve``.
        tokens: The rows of ``token_probability.parquet`` by run and epoch, without the hardest tokens.
        pairs: Differences of the means of two points of a variant, with intervals paired by item.
        notes: Sentences on runs: why one was left out, or what is odd about it.
        answers: Every answer that a run's scores are over: whether it is ``correct``, by ``score`` and item, and the ``chance`` that a guess is right.
            Reports of earlier versions have no answers, or no chances.
    """

    results: pd.DataFrame
    means: pd.DataFrame
    curves: pd.DataFrame
    tokens: pd.DataFrame
    pairs: pd.DataFrame
    notes: pd.DataFrame
    answers: pd.DataFrame


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each table as a Parquet file of its name."""
    for name, table in tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_bytes(folder / f"{name}.parquet", buffer.getvalue())


def read_tables(folder: Path) -> Tables:
    """Read the files of ``Tables``.

    Raises:
        ValueError: For a folder that lacks one.
    """
    missing = [name for name in Tables._fields if not (folder / f"{name}.parquet").is_file()]
    if missing and missing != ["answers"]:
        raise ValueError(f"`from`: {folder} has no {missing[0]}.parquet; name the folder of an earlier report.")
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in Tables._fields if name not in missing}
    answers = tables.pop("answers", pd.DataFrame(columns=ANSWERS))
    return Tables(**tables, answers=answers if "chance" in answers else answers.assign(chance=np.nan))


def collect(paths: Sequence[Path], earlier: Tables | None = None) -> Tables:
    """Make the tables of all runs in or under the paths, and of those of an earlier report that have other names.

    Raises:
        ValueError: Where no tested run is found, and for two runs of the same point and seed.
    """
    known = earlier_runs(earlier.results, earlier.answers) if earlier else {}
    runs, notes = select_runs(paths, [scored.run for scored in known.values()])
    kept = {run.name for run in runs if run.folder == GONE}
    points: dict[str, list[Scored]] = {}
    results: list[Row] = []
    curves: list[Row] = []
    tokens: list[Row] = []
    answers: list[pd.DataFrame] = []
    for run in runs:
        sentences = [notes[run.name]] if run.name in notes else []
        if run.name in kept:
            scored = known[run.name]._replace(run=run, row={**known[run.name].row, "point": run.point})
            curves += rows_of(earlier.curves, run.name) if earlier else []
            tokens += rows_of(earlier.tokens, run.name) if earlier else []
        else:
            base = base_of(run, runs, sentences)
            scored = score_run(run, base, sentences, general_answers(known[base.name]) if base and base.name in kept else None)
            curves += read_curve(run, base, sentences)
            tokens += read_tokens(run, sentences)
        points.setdefault(run.point, []).append(scored)
        results.append(scored.row)
        answers.append(scored.items)
        if sentences:
            notes[run.name] = "; ".join(dict.fromkeys(sentences))
    measured = sorted({name for row in results for name in row if name.startswith(("general/", "lenient/", "drift/"))})
    return Tables(
        results=frame(results, [*RESULTS, *measured, *REST]),
        means=frame(map(mean_row, points.values()), MEANS),
        curves=frame(curves, ["name", "epoch", "domain", "general"]),
        tokens=frame(tokens, [*TOKENS, *BY_GROUP]),
        pairs=frame(pair_rows(points), PAIRS),
        notes=frame(({"name": name, "sentence": sentence} for name, sentence in sorted(notes.items())), ["name", "sentence"]),
        answers=pd.concat(answers, ignore_index=True).astype({"correct": bool, "chance": "float64"}),
    )


def frame(rows: Iterable[Row], columns: Sequence[str]) -> pd.DataFrame:
    """A table whose column types do not depend on its content, so that reading gives back what was written."""
    rows = list(rows)
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=TYPES.get(name, "float64")) for name in columns})
