"""Run folders as six tables: all that the page and the figures are made from."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lit_talr.curriculum.token_groups import Row
from lit_talr.report.items import Draws, Items, average, read_items
from lit_talr.report.runs import LeftOutError, Run, find, read_run
from lit_talr.report.statistics import interval, standard_error, t_interval
from lit_talr.utils.files import read_json, write_bytes

SCORES = ("domain", "general", "drop")
SHARED = ("point", "variant", "remedy", "source", "rate", "alpha", "trained")
"""What the runs of a point, which differ in their seed, have in common."""
RESULTS = ["name", "point", "variant", "remedy", "source", "rate", "seed", "alpha", "of", "trained"]
RESULTS += [f"{name}{end}" for name in SCORES for end in ("", "_lower", "_upper")]
REST = ["general_lenient", "val/score", "val/nll", "steps", "paper_domain", "paper_general", "command"]
"""Of the results the columns after those of the suites. ``general_lenient`` is the mean over suites with answers read leniently, as ``ExactMatch`` says."""
MEANS = [*SHARED, "seeds", *(f"{name}{end}" for name in SCORES for end in ("", "_lower", "_upper", "_se", "_seeds_lower", "_seeds_upper"))]
TOKENS = ["name", "epoch", "threshold", "set", "group", "lower", "upper", "num_tokens", "probability", "nll"]
TOKENS += ["weight", "share_above", "share_at_floor", "temperature"]
NOT_A_SUITE = ("general/mean", "general/drop", "general/drop_se")
TYPES = dict.fromkeys(("name", "point", "variant", "remedy", "source", "of", "command", "reference", "set", "group", "sentence"), "object")
TYPES |= {"trained": "bool", **dict.fromkeys(("seed", "seeds", "steps", "epoch", "num_tokens"), "Int64")}


class Tables(NamedTuple):
    """The tables of a report; each is a Parquet file of its name.

    Args:
        results: A row for each run.
        means: A row for each point: means over its seeds, with intervals over items and over seeds.
        curves: By run and epoch, the share of right answers on validation items of the domain, and of the general suites; ``curve`` says what epoch 0 has.
        tokens: By run and epoch, what ``token_probability.parquet`` holds but for the hardest tokens.
        pairs: By two points of a variant, the differences of their means, with intervals paired by item.
        notes: Of a run a sentence: why it was left out, or something in it.
    """

    results: pd.DataFrame
    means: pd.DataFrame
    curves: pd.DataFrame
    tokens: pd.DataFrame
    pairs: pd.DataFrame
    notes: pd.DataFrame

    def write(self, folder: Path) -> None:
        for name, table in self._asdict().items():
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False)
            write_bytes(folder / f"{name}.parquet", buffer.getvalue())


def read_tables(folder: Path) -> Tables:
    """What ``Tables.write`` wrote.

    Raises:
        ValueError: For a folder that lacks one.
    """
    if missing := [name for name in Tables._fields if not (folder / f"{name}.parquet").is_file()]:
        raise ValueError(f"`from`: {folder} has no {missing[0]}.parquet; name the folder of an earlier report.")
    return Tables(*(pd.read_parquet(folder / f"{name}.parquet") for name in Tables._fields))


class Scored(NamedTuple):
    """A run's row of the table, with the draws of its scores where its answers are there."""

    row: Row
    domain: Draws | None
    general: Draws | None
    drop: Draws | None


def collect(paths: Sequence[Path]) -> Tables:
    """The tables of all runs in or under the paths.

    Raises:
        ValueError: Where no tested run is found, and for two runs of the same point and seed.
    """
    runs, notes = read_runs(find(paths))
    if not runs:
        raise ValueError(f"there is no tested run: {'; '.join(f'{name} {sentence}' for name, sentence in notes.items())}.")
    runs = told_apart(runs, notes)
    refuse_twins(runs)
    scored: list[Scored] = []
    curves: list[Row] = []
    tokens: list[Row] = []
    for run in runs:
        sentences: list[str] = []
        base = base_of(run, runs)
        scored.append(score(run, base, sentences))
        curves += curve(run, base, sentences)
        tokens += token_rows(run, sentences)
        if sentences:
            notes[run.name] = "; ".join(dict.fromkeys([*filter(None, [notes.get(run.name)]), *sentences]))
    groups: dict[str, list[Scored]] = {}
    for part in scored:
        groups.setdefault(part.row["point"], []).append(part)
    suites = sorted({name for part in scored for name in part.row if name.startswith(("general/", "lenient/"))})
    return Tables(
        results=frame([part.row for part in scored], [*RESULTS, *suites, *REST]),
        means=frame([mean_row(parts) for parts in groups.values()], MEANS),
        curves=frame(curves, ["name", "epoch", "domain", "general"]),
        tokens=frame(tokens, TOKENS),
        pairs=frame(list(pair_rows(groups)), ["reference", "point", *bounds("domain"), *bounds("general")]),
        notes=frame([{"name": name, "sentence": sentence} for name, sentence in sorted(notes.items())], ["name", "sentence"]),
    )


def read_runs(folders: dict[str, Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs that can be shown, in the order of the table, and of the others the reason."""
    runs, notes = [], {}
    for name, folder in folders.items():
        try:
            runs.append(read_run(folder, name))
            if runs[-1].remedy == "base" and not (folder / "trial.json").is_file():
                notes[name] = "was tested and never trained, so it is taken for the starting model; a trial.json can say otherwise"
        except LeftOutError as error:
            notes[name] = f"{failure(folder) or error}; left out"
    variants = {run.variant for run in runs if run.remedy != "base"}
    if len(variants) == 1:  # then a base whose variant nobody knows is of this one
        runs = [replace(run, variant=run.variant or next(iter(variants))) for run in runs]
    for run in runs:
        if run.remedy == "base" and run.variant is None and len(variants - {None}) > 1 and None not in variants:
            notes[run.name] = "is the base of no variant in particular; name a variant in its trial.json, and the page shows it there"
    rank = {"base": 0, "standard": 1, "wise-ft": 3}

    def place(run: Run) -> tuple[str | float, ...]:
        return run.variant or "", rank.get(run.remedy, 2), run.remedy, run.source or "", run.rate or 0, run.alpha or 0, run.seed or 0, run.name

    return sorted(runs, key=place), notes


def failure(folder: Path) -> str | None:
    """What the sweep that the run is of says about it, if it failed."""
    try:
        failed = read_json(folder.parent / "sweep.json").get("failed")
    except (ValueError, AttributeError):
        return None
    return f"failed ({str(failed[folder.name]).rstrip('.')})" if isinstance(failed, dict) and folder.name in failed else None


def told_apart(runs: Sequence[Run], notes: dict[str, str]) -> list[Run]:
    """Trained runs that nobody placed, and that their configuration's remedy, rate and seed do not tell apart, each under its own name as the remedy."""
    count = Counter((run.point, run.seed) for run in runs)
    found = []
    for run in runs:
        unclear = count[run.point, run.seed] > 1 and run.trained and not (run.folder / "trial.json").is_file()
        if unclear:
            notes[run.name] = f"is {run.point} by its configuration, as another run is; it stands under its folder's name"
        found.append(replace(run, remedy=run.name) if unclear else run)
    return found


def refuse_twins(runs: Sequence[Run]) -> None:
    """The mean over seeds would count one of them twice."""
    seen: dict[tuple[str, int | None], Run] = {}
    for run in runs:
        twin = seen.setdefault((run.point, run.seed), run)
        if twin is not run:
            raise ValueError(
                f"{twin.name} and {run.name} are both {run.point}{'' if run.seed is None else f', seed {run.seed}'}; "
                'name one of them only, or tell them apart by a trial.json with another "remedy".'
            )


def base_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The starting model's run: the one that the sweep names, or that of the variant."""
    named = [other for other in runs if run.base and other.folder == run.folder.parent / run.base]
    alike = [other for variant in (run.variant, None) for other in runs if other.remedy == "base" and other.variant == variant]
    return next(iter([*named, *alike]), None)


def judge_responses(run: Run, name: str, mean: float | None, sentences: list[str]) -> Items | None:
    """The answers in a file of the run whose mean is the score; what is odd about them is added to the sentences."""
    items = answers(run, name, sentences)
    if items is None or mean is None or abs(items.mean - mean) < 1e-5:  # the logged score is float32
        return items if mean is not None else None
    sentences.append(f"its score {mean:.4g} is not the share of right answers in {name}.jsonl, so it has no interval over items")  # macro-F1, say
    return None


def answers(run: Run, name: str, sentences: list[str]) -> Items | None:
    try:
        return read_items(run.folder / "answers" / f"{name}.jsonl")
    except ValueError as error:
        sentences.append(str(error))
        return None


def score(run: Run, base: Run | None, sentences: list[str]) -> Scored:
    domain = judge_responses(run, "test", run.test["test/score"], sentences)
    general = judge_responses(run, "general-test", run.test.get("general/mean"), sentences)
    before = answers(run, "general-base-test", sentences) or (answers(base, "general-test", []) if base else None)
    now, lost = run.test.get("general/mean"), run.test.get("general/drop")
    if lost is None and base and now is not None and "general/mean" in base.test:
        lost = base.test["general/mean"] - now
    drawn = [items.draws() if items else None for items in (domain, general, before)]
    drop = drawn[2].minus(drawn[1]) if drawn[2] else None
    known = {"name": run.name, **asdict(run), "point": run.point, "trained": run.trained, "general": now, "domain": run.test["test/score"], "drop": lost}
    known |= {"val/score": run.fit.get("val/score"), "val/nll": run.fit.get("val/nll"), "steps": run.fit.get("step")}
    known |= {name: value for name, value in run.test.items() if name.startswith("general/") and name not in NOT_A_SUITE}
    lenient = general.lenient_means() if general else {}
    known |= {f"lenient/{suite}": mean for suite, mean in lenient.items()} | {"general_lenient": float(np.mean([*lenient.values()])) if lenient else None}
    known |= between("domain", drawn[0]) | between("general", drawn[1]) | between("drop", drop)
    return Scored(known, drawn[0], drawn[1], drop)


def bounds(name: str) -> tuple[str, str, str]:
    """The columns of a number and its interval over items."""
    return name, f"{name}_lower", f"{name}_upper"


def between(name: str, draws: Draws | None) -> Row:
    """The interval's two columns."""
    lower, upper = interval(draws.values) if draws else (None, None)
    return {f"{name}_lower": lower, f"{name}_upper": upper}


def mean_row(parts: Sequence[Scored]) -> Row:
    """A point's means over its seeds."""
    row: Row = {**{name: parts[0].row[name] for name in SHARED}, "seeds": len(parts)}
    for name in SCORES:
        values = [part.row[name] for part in parts]
        known = values if None not in values else []
        lower, upper = t_interval(known) or (None, None)
        row |= {name: float(np.mean(known)) if known else None, **between(name, average([getattr(part, name) for part in parts]))}
        row |= {f"{name}_se": standard_error(known) if len(known) > 1 else None, f"{name}_seeds_lower": lower, f"{name}_seeds_upper": upper}
    return row


def pair_rows(groups: dict[str, list[Scored]]) -> Iterator[Row]:
    """Each point against each other of its variant that was trained, or is the base; an interpolation is no reference."""
    drawn = {point: {name: average([getattr(part, name) for part in parts]) for name in ("domain", "general")} for point, parts in groups.items()}
    means = {point: mean_row(parts) for point, parts in groups.items()}
    for reference, first in means.items():
        for point, second in means.items():
            if point == reference or first["variant"] != second["variant"] or not (first["trained"] or first["remedy"] == "base"):
                continue
            row: Row = {"reference": reference, "point": point}
            for name in ("domain", "general"):
                now, then = drawn[point][name], drawn[reference][name]
                row[name] = None if None in (first[name], second[name]) else second[name] - first[name]
                row |= between(name, now.minus(then) if now else None)
            yield row


def curve(run: Run, base: Run | None, sentences: list[str]) -> Iterator[Row]:
    """Validation scores by epoch, of the suites that count in the mean. At epoch 0 the domain score is the base's on test items: nothing asks it others."""
    found: dict[int, Row] = {}
    for name, prefix in (("domain", "val-epoch-"), ("general", "general-epoch-")):
        for file in (run.folder / "answers").glob(f"{prefix}*.jsonl"):
            epoch = file.stem.removeprefix(prefix)
            if epoch.isdecimal() and (items := answers(run, file.stem, sentences)):
                found.setdefault(int(epoch), {})[name] = items.mean
    if 0 in found and base:
        found[0].setdefault("domain", base.test["test/score"])
    yield from ({"name": run.name, "epoch": epoch, **row} for epoch, row in sorted(found.items()))


def token_rows(run: Run, sentences: list[str]) -> list[Row]:
    """The statistics of the run's tokens; the temperature of whichever loss has one."""
    file = run.folder / "token_probability.parquet"
    try:
        found = pd.read_parquet(file) if file.is_file() else pd.DataFrame(columns=["group"])
        found = found[found["group"] != "hardest"]
        temperatures = [name for name in found.columns if name.endswith("/temperature")]
        temperature = found[temperatures].bfill(axis=1).iloc[:, 0] if temperatures else None
        return found.assign(name=run.name, temperature=temperature)[TOKENS].to_dict("records") if len(found) else []
    except (OSError, ValueError, KeyError):  # pyarrow's errors are ValueErrors
        sentences.append(f"its {file.name} is not one that TokenProbability wrote")
        return []


def frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """A table whose columns have the same types whatever it holds, so that what is read back is what was written."""
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=TYPES.get(name, "float64")) for name in columns})
