import logging
import math
from typing import Any

import pytest

from lit_talr.training.schedules import Constant, Cosine, Linear, Schedule


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [1, 1, 1, 1]),
        (Linear(), [1, 0.75, 0.5, 0.25]),
        (Cosine(), [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]),
        (Linear(warmup_steps=1), [0.5, 1, 2 / 3, 1 / 3]),
        (Constant(warmup_ratio=0.75), [0.25, 0.5, 0.75, 1]),
    ],
)
def test_factors_of_four_steps(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule.factor(step, 4) for step in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (Cosine(warmup_steps=100), "`schedule.warmup_steps`: the warm-up takes 100 steps and the run has 6, so its learning rate ends at 6% of the one that"),
        (Linear(warmup_ratio=1.0), "`schedule.warmup_ratio`: the warm-up takes 6 steps and the run has 6, so its learning rate ends at 86% of the one that"),
        (Cosine(warmup_steps=5), None),
    ],
)
def test_a_warm_up_that_the_run_does_not_outlast_is_said(schedule: Schedule, said: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_talr"):
        schedule.say_endless_warmup(6)
    assert [record.getMessage()[: len(said or "")] for record in caplog.records] == ([said] if said else [])


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Linear(warmup_ratio=0.1)])
def test_stays_at_the_end_beyond_the_last_step(schedule: Schedule) -> None:
    assert schedule.factor(10, 10) == schedule.factor(15, 10) == pytest.approx(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_ratio": 5}, r"`warmup_ratio` must lie in \[0, 1\], got 5"),
        ({"warmup_steps": -1}, "`warmup_steps` must be at least 0, got -1"),
        ({"warmup_ratio": 0.1, "warmup_steps": 3}, "not both"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Linear(**arguments)
