"""The runs of a report, and which base model each is compared with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lit_talr.report.comparable import DOMAIN, mark_runs, why_not_comparable
from lit_talr.report.runs import LeftOutError, Run, find, read_run
from lit_talr.utils.files import read_json

ORDER = {"base": 0, "standard": 1, "wise-ft": 3, "lines": 4}
"""The place of remedies in a variant; others are 2."""


def select_runs(paths: Sequence[Path], earlier: Sequence[Run] = ()) -> tuple[list[Run], dict[str, str]]:
    """The tested runs in or under the paths, in the order of the table, and sentences on some of them and on those left out.

    Earlier runs join them, unless one of the same name is there.

    Raises:
        ValueError: Where there is none, and for two runs of the same point and seed.
    """
    runs: list[Run] = []
    notes: dict[str, str] = {}
    for name, folder in find(paths).items():
        try:
            runs.append(read_run(folder, name))
            if runs[-1].remedy == "base" and not (folder / "trial.json").is_file():
                notes[name] = "was tested and never trained, so it is taken for the base model; a trial.json can say otherwise"
        except LeftOutError as error:
            notes[name] = f"{read_failure(folder) or error}; left out"
    names = {run.name for run in runs}
    runs += [run for run in earlier if run.name not in names]
    if not runs:
        raise ValueError(f"there is no tested run: {'; '.join(f'{name} {sentence}' for name, sentence in notes.items())}.")
    runs = sorted(mark_runs(place_bases(runs, notes)), key=sort_key)
    for run in runs:
        if run.marks:
            notes[run.name] = f"differs from most runs: {', '.join(run.marks)}; it is subtracted only from those with its base model and items"
    runs = name_unclear(runs, notes)
    refuse_twins(runs)
    return runs, notes


def sort_key(run: Run) -> tuple[str | float, ...]:
    return run.variant or "", ORDER.get(run.remedy, 2), run.remedy, run.source or "", run.rate or 0, run.alpha or 0, run.seed or 0, run.name


def place_bases(runs: list[Run], notes: dict[str, str]) -> list[Run]:
    """Give runs without a variant the only one that there is; where there are several, a base without one is noted."""
    variants = {run.variant for run in runs if run.remedy != "base"}
    if len(variants) == 1:
        runs = [replace(run, variant=run.variant or next(iter(variants))) for run in runs]
    for run in runs:
        if run.remedy == "base" and run.variant is None and len(variants - {None}) > 1 and None not in variants:
            notes[run.name] = "is the base of no variant in particular; name a variant in its trial.json, and the page shows it there"
    return runs


def read_failure(folder: Path) -> str | None:
    """The sentence of the run's sweep on its failure, if it failed."""
    try:
        return f"failed ({str(read_json(folder.parent / 'sweep.json')['failed'][folder.name]).rstrip('.')})"
    except (ValueError, KeyError, TypeError):
        return None


def name_unclear(runs: Sequence[Run], notes: dict[str, str]) -> list[Run]:
    """Give trained runs without a trial.json that share remedy, rate and seed their own name as the remedy."""
    count = Counter((run.point, run.seed) for run in runs)
    named = []
    for run in runs:
        unclear = count[run.point, run.seed] > 1 and run.trained and not (run.folder / "trial.json").is_file()
        if unclear:
            notes[run.name] = f"is {run.point} by its configuration, as another run is; it stands under its folder's name"
        named.append(replace(run, remedy=run.name) if unclear else run)
    return named


def refuse_twins(runs: Sequence[Run]) -> None:
    """Refuse two runs of one point and seed: the mean over seeds would count one of them twice."""
    seen: dict[tuple[str, int | None], Run] = {}
    for run in runs:
        twin = seen.setdefault((run.point, run.seed), run)
        if twin is not run:
            raise ValueError(
                f"{twin.name} and {run.name} are both {run.point}{'' if run.seed is None else f', seed {run.seed}'}; "
                'name one of them only, or tell them apart by a trial.json with another "remedy".'
            )


def base_of(run: Run, runs: Sequence[Run], sentences: list[str]) -> Run | None:
    """The run of its base model: the one that the sweep names, or else one of the variant, or without a variant; a sentence is added where none is.

    Its scores must be of the weights that the run began with, on the same items.
    """
    named = [other for other in runs if run.base and other.folder == run.folder.parent / run.base]
    alike = [other for variant in (run.variant, None) for other in runs if other.remedy == "base" and other.variant == variant]
    reasons = {other.name: why_not_comparable(run, other, DOMAIN) for other in (*named, *alike)}
    fitting = [other for other in (*named, *alike) if reasons[other.name] is None]
    if reasons and not fitting:
        sentences.append(f"no base model is there to compare with: {next(iter(reasons.values()))}")
    return next(iter(fitting), None)
