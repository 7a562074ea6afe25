from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from lit_talr.theory import bound, cost_of_gain, geometric_step, hard_token_setting, logit_step, random_setting, ratio_step, safe_rate
from lit_talr.theory.simulations import Cost
from lit_talr.theory.tilting import Step, run_steps

SEEDS = (0, 1, 2)
SHARES = {logit_step: 0.4, ratio_step: 0.1, geometric_step: 0.4}
"""Gain that is asked for, of all that there is; the ratio step reaches no more of it in a few steps, as it overshoots hard tokens."""


def costs(step: Step, seed: int, num_steps: tuple[int, ...] = (4, 8, 16, 32, 64), share: float = 1.0) -> list[Cost]:
    setting = random_setting(num_places=4, vocabulary=12, seed=seed)
    total = run_steps(setting, geometric_step, 1.0, 1)[0]
    return [cost_of_gain(setting, step, share * SHARES[step] * total, number) for number in num_steps]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("step", [logit_step, ratio_step])
def test_theorem_3_1_for_one_gain_smaller_steps_cost_less(step: Step, seed: int) -> None:
    found = costs(step, seed)
    assert all(larger.rate > smaller.rate and larger.cost > smaller.cost > 0 for larger, smaller in pairwise(found))


@pytest.mark.parametrize("seed", SEEDS)
def test_theorem_3_1_the_excess_is_linear_in_the_rate(seed: int) -> None:
    """Halving a small step halves what it costs beyond the smallest ones."""
    eighth, quarter, half, whole = reversed(costs(logit_step, seed, (16, 32, 64, 128)))
    for small, middle, large in ((eighth, quarter, half), (quarter, half, whole)):
        slopes = [(two.cost - one.cost) / (two.rate - one.rate) for one, two in ((small, middle), (middle, large))]
        assert slopes[1] == pytest.approx(slopes[0], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("step", [logit_step, ratio_step])
def test_theorem_3_1_constants_from_some_steps_bound_others(step: Step, seed: int) -> None:
    shares = (0.25, 0.5, 0.75, 1.0)
    found = bound([cost for share in shares for cost in costs(step, seed, (4, 16, 64), share)])
    assert found.k1 > 0 and found.k2 > 0
    for share in shares:
        for cost in costs(step, seed, (6, 12, 24, 48), share):
            assert cost.cost <= found.at(cost.gain, cost.rate)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_geometric_form_cannot_show_it(seed: int) -> None:
    found = [cost.cost for cost in costs(geometric_step, seed)]
    assert max(found) == pytest.approx(min(found), rel=1e-8)


def test_a_gain_is_reached_exactly() -> None:
    setting = random_setting(4, 10, 0)
    cost = cost_of_gain(setting, logit_step, 0.2, 5)
    assert run_steps(setting, logit_step, cost.rate, 5) == pytest.approx((0.2, cost.cost), rel=1e-9)


def test_what_a_few_steps_cannot_gain_is_refused() -> None:
    with pytest.raises(ValueError, match="`gain` must be reachable, but 1 step.s. of no size gain 1.9 nats"):
        cost_of_gain(random_setting(8, 20, 0), logit_step, 1.9, 1)


@pytest.mark.parametrize("step", [logit_step, ratio_step])
@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_theorem_3_2_the_fewer_hard_tokens_the_larger_the_safe_rate(step: Step, budget: float) -> None:
    found = [safe_rate(hard_token_setting(num_hard), step, budget) for num_hard in (1, 4, 16, 64)]
    assert [safe.num_hard for safe in found] == [1, 4, 16, 64]
    assert all(fewer.rate > more.rate for fewer, more in pairwise(found))
    for safe in found:
        assert safe.cost == pytest.approx(budget, rel=1e-6)


def test_hard_tokens_are_what_they_are_called() -> None:
    setting = hard_token_setting(3, num_places=10, vocabulary=5)
    np.testing.assert_allclose(setting.general.sum(1), 1)
    np.testing.assert_allclose((setting.general * setting.domain).sum(1), [0.01] * 3 + [0.9] * 7)
    with pytest.raises(ValueError, match=r"`num_hard` must lie in \[0, 10\], got 11; `num_places` is the upper end"):
        hard_token_setting(11, num_places=10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hard_token_setting(1, easy=1.0), r"`easy` must lie in \(0, 1\), got 1.0"),
        (lambda: hard_token_setting(1, hard=0.0), r"`hard` must lie in \(0, 1\), got 0.0"),
        (lambda: hard_token_setting(1, vocabulary=1), "`vocabulary` must be at least 2, got 1"),
        (lambda: safe_rate(hard_token_setting(4), geometric_step, 0.05), "`geometric_step` gives no numbers in this setting: some of its probabilities are 0"),
    ],
)
def test_what_is_not_defined_is_refused(make: Callable[[], object], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        make()
