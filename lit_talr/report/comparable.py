"""Which runs can be compared, and how those that cannot differ from the others."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

from lit_talr.report.runs import Run

DOMAIN, GENERAL = "test/score", "general/mean"


def why_not_comparable(run: Run, other: Run, score: str) -> str | None:
    """The reason why a score of two runs must not be subtracted; None where base model and items are the same."""
    one, two = run.scores.get(score), other.scores.get(score)
    if one is None or two is None:
        return f"{(run if one is None else other).name} has no {score}"
    if one.base != two.base:
        return f"{run.name} began from base model {one.base or 'of random weights'}, {other.name} from {two.base or 'random weights'}"
    if one.items != two.items:
        return f"{run.name} has its {score} on {one.num_items} items, {other.name} on {two.num_items} others"
    return None


def facts(run: Run) -> dict[str, tuple[Hashable, str]]:
    """Everything that a run's scores belong to, by kind: a value that can be compared, and how the page names one that differs."""
    found: dict[str, tuple[Hashable, str]] = {}
    for name, score in ((DOMAIN, run.scores.get(DOMAIN)), (GENERAL, run.scores.get(GENERAL))):
        if score is not None:
            found["base"] = score.base, f"base model {(score.base or 'random')[:8]}"
            found["arithmetic"] = score.arithmetic, score.arithmetic
            found[name] = score.items, f"{score.num_items} other items of {name.split('/')[0]}"
    if run.trained:
        if run.steps is not None:
            found["steps"] = run.steps, f"{run.steps} steps"
        if run.num_rows is not None:
            found["number of rows"] = run.num_rows, f"{run.num_rows:,} training rows"
            found[f"rows of seed {run.seed}"] = run.rows, "other training rows"
    return found


def mark_runs(runs: Sequence[Run]) -> list[Run]:
    """Gives each run the marks by which it differs from most runs of its variant; runs with different marks are different points."""
    usual: dict[tuple[str | None, str], Counter[Hashable]] = {}
    known = [facts(run) for run in runs]
    for run, about in zip(runs, known, strict=True):
        for kind, (value, _) in about.items():
            usual.setdefault((run.variant, kind), Counter())[value] += 1
    most = {key: counter.most_common(1)[0][0] for key, counter in usual.items()}
    return [
        replace(run, marks=tuple(mark for kind, (value, mark) in about.items() if value != most[run.variant, kind]))
        for run, about in zip(runs, known, strict=True)
    ]
