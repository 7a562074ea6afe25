"""Parameters of a test, few of which are fast."""

from typing import Any

import pytest


def first_is_fast(first: Any, *others: Any) -> list[Any]:
    """Parameters of which all but the first are marked slow."""
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]
