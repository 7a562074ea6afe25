"""The rows of a report: scores of runs and points, validation curves, and statistics of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from lit_talr.report.comparable import DOMAIN, GENERAL, why_not_comparable
from lit_talr.report.items import KEY, Answers, answers_of, average, mean_score, read_items, suite_means
from lit_talr.report.runs import Row, Run
from lit_talr.report.statistics import standard_error, t_interval

SCORES = ("domain", "general", "drop")
SHARED = ("point", "variant", "remedy", "source", "rate", "alpha", "trained")
"""The columns that the runs of a point, which differ in their seed, have in common."""
ANSWERS = ["name", "score", *KEY, "correct", "chance"]
DRIFT = ("drift/kl", "drift/agreement", "drift/bits_per_byte/", "drift/nll/", "drift/nll_rise/")
"""How the names of a drift's columns begin."""
NOT_A_SUITE = ("general/mean", "general/drop", "general/drop_se")
TOKENS = ["name", "epoch", "threshold", "set", "group", "lower", "upper", "num_tokens", "probability", "nll"]
TOKENS += ["weight", "share_above", "share_at_floor", "temperature"]
BY_GROUP = ["base_nll", "gradient_share", "sequence_median"]
"""Columns of the tokens that TokenProbability did not always write."""


class Scored(NamedTuple):
    """A run's row of the results, and the answers behind its scores where they are known."""

    run: Run
    row: Row
    answers: dict[str, Answers | None]  # by score
    items: pd.DataFrame  # every answer that its scores are over


def read_answers(run: Run | None, name: str, sentences: list[str]) -> pd.DataFrame | None:
    """Read a file of a run's answers; a sentence is added for one that is broken."""
    try:
        return read_items(run.folder / "answers" / f"{name}.jsonl") if run else None
    except ValueError as error:
        sentences.append(str(error))
        return None


def read_scored_answers(run: Run, name: str, score: float | None, sentences: list[str]) -> pd.DataFrame | None:
    """Read answers whose mean is the score; a sentence is added where it is not."""
    items = read_answers(run, name, sentences)
    if items is None or score is None or abs(mean_score(items) - score) < 1e-5:  # the logged score is float32
        return items if score is not None else None
    sentences.append(f"its score {score:.4g} is not the share of right answers in {name}.jsonl, so it has no interval over items")  # macro-F1, say
    return None


def score_run(run: Run, base: Run | None, sentences: list[str], stored: pd.DataFrame | None = None) -> Scored:
    """Score a run; sentences on what is odd about its answers are added to the list. ``stored`` has the base's general answers where its folder is gone."""
    mean, drop = run.test.get("general/mean"), run.test.get("general/drop")
    if drop is None and base and mean is not None and why_not_comparable(run, base, GENERAL) is None:
        drop = base.test[GENERAL] - mean
    domain_items = read_scored_answers(run, "test", run.test["test/score"], sentences)
    general_items = read_scored_answers(run, "general-test", mean, sentences)
    base_items = read_answers(run, "general-base-test", sentences)
    if base_items is None and base and why_not_comparable(run, base, GENERAL) is None:
        base_items = read_answers(base, "general-test", []) if stored is None else stored
    domain, general, base_general = (None if items is None else answers_of(items) for items in (domain_items, general_items, base_items))
    drops = base_general.minus(general) if base_general and base is not run else None  # the base's own drop is 0 by definition
    answers = {"domain": domain, "general": general, "drop": drops}
    lenient = {} if general_items is None else suite_means(general_items, "lenient")
    row: Row = {**asdict(run), "point": run.point, "trained": run.trained, "domain": run.test["test/score"], "general": mean, "drop": drop}
    row |= {"val/score": run.fit.get("val/score"), "val/nll": run.fit.get("val/nll"), "steps": run.steps}
    row["update/visible"] = run.fit.get("update/visible")
    row |= {name: value for name, value in run.test.items() if name.startswith("general/") and name not in NOT_A_SUITE}
    if run.alpha is None:  # the drift of a merged model is measured from itself
        row |= {name: value for name, value in {**run.fit, **run.test}.items() if name.startswith(DRIFT) and not name.endswith("_se")}
    row |= {f"lenient/{suite}": value for suite, value in lenient.items()}
    row["general_lenient"] = float(np.mean([*lenient.values()])) if lenient else None
    parts = {"domain": domain_items, "general": general_items, "general of the base": base_items if base is not run else None}
    items = [table.assign(name=run.name, score=score)[ANSWERS] for score, table in parts.items() if table is not None]
    return Scored(run, row | belongings(run) | bounds(answers), answers, pd.concat(items) if items else pd.DataFrame(columns=ANSWERS))


def belongings(run: Run) -> Row:
    """Everything that a run's scores belong to."""
    domain, general = run.scores[DOMAIN], run.scores.get(GENERAL)
    about = {"weights": domain.weights, "base_model": domain.base, "arithmetic": domain.arithmetic, "domain_items": domain.items}
    return {**about, "general_items": general.items if general else None}


def bounds(answers: dict[str, Answers | None]) -> Row:
    """The two columns of each score's interval over items."""
    row: Row = {}
    for name, of_score in answers.items():
        row[f"{name}_lower"], row[f"{name}_upper"] = of_score.interval() if of_score else (None, None)
    return row


def average_answers(runs: Sequence[Scored]) -> dict[str, Answers | None]:
    return {name: average([run.answers[name] for run in runs]) for name in SCORES}


def mean_row(runs: Sequence[Scored]) -> Row:
    """A point's means over its seeds, with intervals over items and over seeds."""
    row: Row = {**{name: runs[0].row[name] for name in SHARED}, "seeds": len(runs), **bounds(average_answers(runs))}
    for name in SCORES:
        values = [run.row[name] for run in runs]
        known = values if None not in values else []
        row[name] = float(np.mean(known)) if known else None
        row[f"{name}_se"] = standard_error(known) if len(known) > 1 else None
        row[f"{name}_seeds_lower"], row[f"{name}_seeds_upper"] = t_interval(known) or (None, None)
    return row


def pair_rows(points: dict[str, list[Scored]]) -> Iterator[Row]:
    """Differences of each point to each other one of its variant that was trained or is the base; an interpolation is no reference."""
    answers = {point: average_answers(runs) for point, runs in points.items()}
    means = {point: mean_row(runs) for point, runs in points.items()}
    for reference, first in means.items():
        for point, second in means.items():
            if point == reference or first["variant"] != second["variant"] or not (first["trained"] or first["remedy"] == "base"):
                continue
            row: Row = {"reference": reference, "point": point}
            differences: dict[str, Answers | None] = {}
            for name, score in (("domain", DOMAIN), ("general", GENERAL)):
                apart = why_not_comparable(points[point][0].run, points[reference][0].run, score)
                row[name] = None if apart or None in (first[name], second[name]) else second[name] - first[name]
                of_point = answers[point][name]
                differences[name] = of_point.minus(answers[reference][name]) if of_point and not apart else None
            yield row | bounds(differences)


def read_curve(run: Run, base: Run | None, sentences: list[str]) -> Iterator[Row]:
    """Validation scores by epoch, of the suites that count in the mean; the domain score of epoch 0 is the base's on test items, the only one it has."""
    epochs: dict[int, Row] = {}
    for name, prefix in (("domain", "val-epoch-"), ("general", "general-epoch-")):
        for file in (run.folder / "answers").glob(f"{prefix}*.jsonl"):
            epoch = file.stem.removeprefix(prefix)
            if epoch.isdecimal() and (items := read_answers(run, file.stem, sentences)) is not None:
                epochs.setdefault(int(epoch), {})[name] = mean_score(items)
    if 0 in epochs and base:
        epochs[0].setdefault("domain", base.test["test/score"])
    yield from ({"name": run.name, "epoch": epoch, **row} for epoch, row in sorted(epochs.items()))


def read_tokens(run: Run, sentences: list[str]) -> list[Row]:
    """The statistics of the run's tokens, with the temperature of any loss that has one; a sentence is added for a file that is broken."""
    file = run.folder / "token_probability.parquet"
    if not file.is_file():
        return []
    try:
        table = pd.read_parquet(file)
        table = table[table["group"] != "hardest"]
        temperatures = [name for name in table.columns if name.endswith("/temperature")]
        temperature = table[temperatures].bfill(axis=1).iloc[:, 0] if temperatures else None
        table = table.assign(name=run.name, temperature=temperature, **{name: None for name in BY_GROUP if name not in table})
        return table[[*TOKENS, *BY_GROUP]].to_dict("records")
    except (OSError, ValueError, KeyError):  # pyarrow's errors are ValueErrors
        sentences.append(f"its {file.name} is not one that TokenProbability wrote")
        return []
