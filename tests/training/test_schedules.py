import logging
import math
from typing import Any

import pytest

from lit_talr.training.schedules import FINCH, Constant, Cosine, Linear, Schedule


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smoothing": 1.0}, r"`smoothing` must lie in \[0, 1\), got 1.0; 0 takes each step's own NLL"),
        ({"cap": 0.0}, r"`cap` must lie in \(0, inf\), got 0.0"),
        ({"epsilon": 0.0}, r"`epsilon` must lie in \(0, inf\), got 0.0"),
        ({"warmup_steps": -1}, "`warmup_steps` must be at least 0, got -1"),
    ],
)
def test_refusals_of_finch(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FINCH(**arguments)


def test_finch_takes_each_step_in_before_its_rate_is_set_and_rises_as_the_loss_falls() -> None:
    schedule, found = FINCH(smoothing=0.5, cap=2.0, epsilon=1e-12), []
    for step, nll in enumerate([4.0, 2.0, 0.0, 0.0, 0.0, 0.0]):
        schedule.see(step, nll)
        schedule.see(step, 100.0)  # ZeRO steps once for each group of weights
        found.append(schedule.factor(step, 6))
    assert found == pytest.approx([4**-0.5, 3**-0.5, 1.5**-0.5, 0.75**-0.5, 0.375**-0.5, 2.0])


def test_finch_warms_up_to_its_own_rate() -> None:
    schedule = FINCH(warmup_steps=3)
    schedule.see(0, 4.0)
    assert [schedule.factor(step, 8) for step in range(5)] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])


def test_finch_continues_from_its_state_and_begins_anew_from_another() -> None:
    first, second = FINCH(), FINCH()
    first.see(0, 4.0)
    second.restore(first.state())
    for schedule in (first, second):
        schedule.see(1, 1.0)
    assert first.factor(1, 2) == second.factor(1, 2) == pytest.approx(3.7**-0.5)
    second.restore(Cosine().state())
    assert second.factor(0, 2) == 2.5 and second.state() == {}
