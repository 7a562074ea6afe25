import numpy as np
import pytest
import torch

from lit_talr.theory import Setting, geometric_step, logit_step, ratio_step
from lit_talr.theory.simulations import random_setting
from lit_talr.theory.tilting import Step, run_steps

SETTING = random_setting(num_places=4, vocabulary=6, seed=0)


def test_the_steps_are_their_formulas() -> None:
    q, p = SETTING
    formulas = {logit_step: q * np.exp(0.3 * (p - q)), ratio_step: q * np.exp(0.3 * p / q), geometric_step: q**0.7 * p**0.3}
    for step, weights in formulas.items():
        np.testing.assert_allclose(np.exp(step(np.log(q), p, 0.3)), weights / weights.sum(1, keepdims=True), rtol=1e-12)


def test_the_logit_step_is_gradient_descent_on_the_domains_code_length() -> None:
    logits, domain = torch.from_numpy(np.log(SETTING.general)).requires_grad_(), torch.from_numpy(SETTING.domain)
    torch.nn.functional.cross_entropy(logits, domain, reduction="sum").backward()
    assert logits.grad is not None
    stepped = (logits - 0.5 * logits.grad).log_softmax(-1).detach()
    np.testing.assert_allclose(logit_step(np.log(SETTING.general), SETTING.domain, 0.5), stepped.numpy(), rtol=1e-12)


def test_the_exponent_of_the_ratio_step_is_the_gradient_by_the_probabilities() -> None:
    q, domain = torch.from_numpy(SETTING.general).requires_grad_(), torch.from_numpy(SETTING.domain)
    (-domain * q.log()).sum().backward()
    assert q.grad is not None
    tilted = (q.log() - 0.01 * q.grad).log_softmax(-1).detach()
    np.testing.assert_allclose(ratio_step(np.log(SETTING.general), SETTING.domain, 0.01), tilted.numpy(), rtol=1e-12)


def test_what_is_gained_and_what_it_costs() -> None:
    """From (1/2, 1/2) all the way to (4/5, 1/5) in one geometric step."""
    setting = Setting(np.array([[0.5, 0.5]]), np.array([[0.8, 0.2]]))
    gain, cost = run_steps(setting, geometric_step, 1.0, 1)
    assert gain == pytest.approx(0.8 * np.log(1.6) + 0.2 * np.log(0.4)) and cost == pytest.approx(-0.5 * np.log(1.6) - 0.5 * np.log(0.4))


@pytest.mark.parametrize("step", [logit_step, ratio_step, geometric_step])
def test_the_domain_is_a_fixed_point(step: Step) -> None:
    there = np.log(SETTING.domain)
    if step is ratio_step:  # P2 / q is 1 for every token
        assert np.allclose(SETTING.domain * np.exp(-there), 1)
    np.testing.assert_allclose(step(there, SETTING.domain, 0.1), there, atol=1e-12)


def test_a_step_far_too_large_stays_finite() -> None:
    for step in (logit_step, ratio_step):
        assert np.isfinite(run_steps(SETTING, step, 1e6, 20)).all()
