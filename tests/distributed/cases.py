"""Which cases a module's one start of two ranks runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def fast_and_slow(cases: Iterable[str], fast: Iterable[str]) -> list[Any]:
    """All cases as parameters; those that are not fast are marked slow."""
    fast = set(fast)
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def chosen(request: pytest.FixtureRequest) -> list[str]:
    """The parameters called ``case`` of those tests of a module that are going to run, each once."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    return list(dict.fromkeys(item.callspec.params["case"] for item in tests if hasattr(item, "callspec") and "case" in item.callspec.params))
