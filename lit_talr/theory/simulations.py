"""Simulations of Theorem 3.1 (smaller steps cost less) and Theorem 3.2 (fewer hard tokens, larger safe steps) of the paper, arXiv:2509.20758.

Each takes seconds; numbers are nats per position. Steps and settings are OUR readings of the paper: see ``tilting.py``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lit_talr.theory.tilting import Setting, Step, run_steps
from lit_talr.utils.errors import check_in, check_least


def random_setting(num_places: int, vocabulary: int, seed: int) -> Setting:
    """Two unrelated distributions at each position, uneven (Dirichlet, 0.5) and nowhere below about 1e-3 / V."""
    draw = np.random.default_rng(seed)
    general, domain = 0.999 * draw.dirichlet(np.full(vocabulary, 0.5), size=(2, num_places)) + 0.001 / vocabulary
    return Setting(general, domain)


def hard_token_setting(num_hard: int, num_places: int = 64, vocabulary: int = 32, easy: float = 0.9, hard: float = 0.01, seed: int = 0) -> Setting:
    """A domain with one right token at each position, some of which are hard for the model.

    Args:
        num_hard: Positions whose right token has probability ``hard``, from 0 to ``num_places``; at the others it has ``easy``.
        num_places: Positions, N; a long explanation has many hard tokens among them, a label few.
        vocabulary: V, at least 2.
        easy: Probability of an easy token, in (0, 1).
        hard: Probability of a hard token, in (0, 1).
        seed: Seed of how the other tokens share the rest.

    Raises:
        ValueError: For a number out of range.
    """
    check_least("vocabulary", vocabulary, 2)
    check_in("easy", easy, "(0, 1)")
    check_in("hard", hard, "(0, 1)")
    check_in("num_hard", num_hard, f"[0, {num_places}]", "`num_places` is the upper end")
    right = np.where(np.arange(num_places) < num_hard, hard, easy)[:, None]
    others = np.random.default_rng(seed).dirichlet(np.ones(vocabulary - 1), size=num_places) * (1 - right)
    return Setting(np.concatenate([right, others], 1), np.tile(np.eye(vocabulary)[0], (num_places, 1)))


def largest_rate(holds: Callable[[float], bool], smallest: float = 1e-7, grow: float = 1.2) -> float:
    """The first rate at which a condition fails, to ten digits; infinity if it holds up to 1e6."""
    high = smallest
    while holds(high):
        if high > 1e6:
            return float("inf")
        high *= grow
    low = high / grow
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


class Cost(NamedTuple):
    """The general cost of a domain gain by equal steps; a list of these makes a ``pandas.DataFrame``."""

    rate: float
    num_steps: int
    gain: float
    cost: float  # on the general distribution, the change of E_P1[L_q]


def cost_of_gain(setting: Setting, step: Step, gain: float, num_steps: int) -> Cost:
    """Theorem 3.1: the general cost of a fixed domain gain in ``num_steps`` equal steps, at the smallest size that reaches it.

    Raises:
        ValueError: If no size reaches it.
    """
    rate = largest_rate(lambda size: run_steps(setting, step, size, num_steps)[0] < gain)
    if rate == float("inf"):
        raise ValueError(f"`gain` must be reachable, but {num_steps} step(s) of no size gain {gain} nats on the domain; take more steps or ask for less.")
    return Cost(rate, num_steps, gain, run_steps(setting, step, rate, num_steps)[1])


class Bound(NamedTuple):
    """Theorem 3.1: cost <= k1 gain + k2 gain^2 rate."""

    k1: float
    k2: float

    def at(self, gain: float, rate: float) -> float:
        return self.k1 * gain + self.k2 * gain**2 * rate


def bound(costs: Sequence[Cost]) -> Bound:
    """Constants that bound costs: k1 from the smallest steps of each gain, k2 from the additional cost of larger steps."""
    least = {cost.gain: cost.cost for cost in sorted(costs, key=lambda cost: -cost.rate)}
    k1 = max(cost / gain for gain, cost in least.items())
    k2 = max((cost.cost - least[cost.gain]) / (cost.gain**2 * cost.rate) for cost in costs)
    return Bound(k1, k2)


class SafeRate(NamedTuple):
    """The end of the range of safe step sizes; a list of these makes a ``pandas.DataFrame``."""

    num_hard: int  # positions whose right token has p < 0.2, the threshold of the paper's analysis
    rate: float  # smaller rates cost less than the budget
    gain: float  # on the domain, at this rate
    cost: float


def safe_rate(setting: Setting, step: Step, budget: float, num_steps: int = 10) -> SafeRate:
    """Theorem 3.2: the step size up to which ``num_steps`` steps on the domain cost no more than ``budget`` in general.

    A safe step need not be the best one: with more hard tokens there is also more to gain.

    Args:
        setting: The distributions, such as those of ``hard_token_setting``.
        step: A step of ``tilting.py``.
        budget: Nats per position, above 0.
        num_steps: Number of steps, at least 1.
    """
    rate = largest_rate(lambda size: run_steps(setting, step, size, num_steps)[1] <= budget)
    return SafeRate(int((setting.general[setting.domain == 1] < 0.2).sum()), rate, *run_steps(setting, step, rate, num_steps))
