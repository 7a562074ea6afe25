"""Fine-tuning as exponential tilting of next-token distributions, for simulations of Theorems 3.1 and 3.2 of the paper (arXiv:2509.20758).

The paper takes tilting as a surrogate of fine-tuning; its exact update is not known here. The three steps below are OUR readings of it: two can show the
theorems and one cannot. The settings are OUR readings too: the base model is the general distribution ("already well modelled"), and the domain is another
distribution at the same positions. Numbers are float64, in nats per position.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Step = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Log probabilities ``[N, V]`` of the model, the domain's probabilities ``[N, V]`` and the step size in; log probabilities out."""


class Setting(NamedTuple):
    """Distributions over V tokens at N positions (after N beginnings of a text)."""

    general: np.ndarray  # [N, V] P1 > 0, also the base model
    domain: np.ndarray  # [N, V] P2


def logit_step(log_q: np.ndarray, domain: np.ndarray, rate: float) -> np.ndarray:
    """OUR reading: gradient descent on logits, z += rate (P2 - q), which tilts q by its distance from the domain. Shows both theorems."""
    return normalise(log_q + rate * (domain - np.exp(log_q)))


def ratio_step(log_q: np.ndarray, domain: np.ndarray, rate: float) -> np.ndarray:
    """OUR reading: q exp(rate P2 / q), normalised; the exponent is minus the gradient of the domain's code length by q. Shows both theorems.

    A hard token (q small against P2) makes the exponent large, and the step overshoots unless ``rate`` is about q / P2 or less.
    """
    return normalise(log_q + rate * domain * np.exp(np.minimum(-log_q, 200)))  # avoids infinities: such a step is far too large anyway


def geometric_step(log_q: np.ndarray, domain: np.ndarray, rate: float) -> np.ndarray:
    """OUR reading, and one that cannot show Theorem 3.1: q^(1 - rate) P2^rate, normalised.

    n steps reach q^((1 - rate)^n) P2^(1 - (1 - rate)^n): all rates lie on one curve, so a gain on the domain has one cost.
    """
    return normalise(log_q + rate * (np.log(domain) - log_q))


def normalise(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def run_steps(setting: Setting, step: Step, rate: float, num_steps: int) -> tuple[float, float]:
    """Gain on the domain and general cost of some steps: changes of E_P[L_q], negated for the gain.

    Raises:
        ValueError: For a step that gives NaN or infinities in this setting.
    """
    start = log_q = np.log(setting.general)
    for _ in range(num_steps):
        log_q = step(log_q, setting.domain, rate)
    gain, cost = (float((p * (log_q - start)).sum(-1).mean()) for p in (setting.domain, setting.general))
    if not np.isfinite([gain, cost]).all():
        raise ValueError(f"`{getattr(step, '__name__', 'step')}` gives no numbers in this setting: some of its probabilities are 0; use `logit_step`.")
    return gain, -cost
