"""A suite under several prompt wordings: one suite for each wording, named ``suite/wording``, with the same items."""

from collections.abc import Iterable, Mapping

import numpy as np

SPREAD, DEVIATION = "spread", "sd"
"""Numbers logged next to the scores of the wordings: the largest score minus the smallest, and the standard deviation (divisor k - 1)."""


def suite_of(name: str) -> str:
    """The suite of a name such as ``suite/wording``; a name without a wording is its own suite."""
    return name.partition("/")[0]


def suite_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """The score of each suite: for one under several wordings, the mean over them."""
    return {suite: float(np.mean(list(wordings.values()))) for suite, wordings in by_suite(scores).items()}


def with_spreads(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores, and for each suite under several wordings also ``suite`` (their mean), ``suite/spread`` and ``suite/sd``."""
    named = dict(scores)
    for suite, wordings in by_suite(scores).items():
        if suite not in scores:
            values = list(wordings.values())
            spread, deviation = max(values) - min(values), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            named |= {suite: float(np.mean(values)), f"{suite}/{SPREAD}": spread, f"{suite}/{DEVIATION}": deviation}
    return named


def by_suite(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    suites: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        suites.setdefault(suite_of(name), {})[name] = score
    return suites


def check_wordings(names: Iterable[str]) -> None:
    """Refuses names of suites that do not tell suites and wordings apart.

    Raises:
        ValueError: For a second slash, a wording that is called as what is logged next to it, one wording alone, and a suite with and without wordings.
    """
    suites = by_suite(dict.fromkeys(names, 0.0))
    for suite, wordings in suites.items():
        for name in wordings:
            if name.count("/") > 1 or name.endswith("/") or name.startswith("/"):
                raise ValueError(f"`suites` are named `suite`, or `suite/wording`, got {name!r}; use one slash alone.")
            if name in (f"{suite}/{SPREAD}", f"{suite}/{DEVIATION}"):
                raise ValueError(f"`suites`: {name!r} is the name of a number that is logged; call the wording otherwise.")
        if suite in wordings and len(wordings) > 1:
            raise ValueError(f"`suites` must name `{suite}` alone or with wordings, got {', '.join(wordings)}; give each wording a name of its own.")
        if suite not in wordings and len(wordings) == 1:
            raise ValueError(f"`suites` must name at least two wordings of `{suite}`, got {next(iter(wordings))!r} alone; call it `{suite}`, or add another.")
