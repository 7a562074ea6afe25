"""The table over seeds of benchmarks/results/remedies-cpu.md."""

import pandas as pd
import pytest

from docs.tables.remedies import at_level, by_seed


def results(*runs: tuple[str, float | None, int | None, float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(runs, columns=["remedy", "rate", "seed", "domain", "general"])
    return frame.assign(source=None, variant="clean")


BASE = ("base", None, None, 0.0, 0.9)


def test_the_general_score_at_the_level_by_hand() -> None:
    """Standard's best is .4, so the level is .3, where Standard has .8 and the other .85; the third never gets there."""
    seed = results(BASE, ("standard", 2e-3, 0, 0.4, 0.7), ("standard", 1e-3, 0, 0.2, 0.9), ("kl", 1e-3, 0, 0.6, 0.8), ("l2", 1e-3, 0, 0.1, 0.9))
    assert at_level(seed) == {"standard": 0.0, "kl": pytest.approx(0.85 - 0.8)}


def test_seeds_are_compared_each_with_its_own_standard() -> None:
    first = results(BASE, ("standard", 1e-3, 0, 0.4, 0.8), ("kl", 1e-3, 0, 0.4, 0.9), ("l2", 1e-3, 0, 0.1, 0.9))
    more = results(BASE, ("standard", 1e-3, 1, 0.4, 0.7), ("kl", 1e-3, 1, 0.4, 0.9), ("l2", 1e-3, 1, 0.4, 0.7))
    _, _, kl, l2 = by_seed(first, more, "clean").splitlines()
    assert kl.startswith("| kl | +.075 | +.150 | +.112 [") and l2 == "| l2 | not reached | +.000 | +.000 |"
