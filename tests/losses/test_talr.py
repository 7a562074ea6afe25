import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_talr.losses import DFT, TALR, LossStrategy, Standard, TokenStats


def stats_of(nll: Tensor, mask: Tensor | None = None) -> TokenStats:
    mask = torch.ones_like(nll, dtype=torch.bool) if mask is None else mask
    sequence = torch.arange(nll.shape[0]).unsqueeze(1).expand(nll.shape)
    return TokenStats(nll=nll * mask, mask=mask, sequence_ids=sequence)


def random_nll(seed: int = 0, shape: tuple[int, int] = (5, 7)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 6


def random_stats(seed: int = 0) -> TokenStats:
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(seed + 100)) < 0.7
    return stats_of(random_nll(seed), mask)


def observed(loss: LossStrategy, stats: TokenStats) -> Tensor:
    """The weights of a training micro-batch."""
    weights = loss.weights(stats)
    loss.observe(stats, weights)
    return weights


def total(loss: LossStrategy, stats: TokenStats) -> Tensor:
    return loss(stats, observed(loss, stats))


def gradient(loss: Any, nll: Tensor) -> Tensor:
    nll = nll.clone().requires_grad_()
    total(loss, stats_of(nll)).backward()
    assert nll.grad is not None
    return nll.grad


def test_temperature_1_without_floor_has_the_gradient_of_dft() -> None:
    nll = random_nll()
    torch.testing.assert_close(gradient(TALR(temperature=1.0, floor=0.0), nll), gradient(DFT(), nll), rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [1e12, math.inf])
def test_temperature_to_infinity_has_the_gradient_of_standard(temperature: float) -> None:
    nll = random_nll()
    torch.testing.assert_close(gradient(TALR(temperature=temperature, floor=0.0), nll), gradient(Standard(), nll), rtol=1e-10, atol=0)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0])
def test_fixed_temperature_without_floor_has_the_gradient_of_its_potential(temperature: float) -> None:
    nll = random_nll()
    potential = nll.clone().requires_grad_()
    (temperature * (1 - torch.exp(-potential) ** (1 / temperature))).sum().backward()
    torch.testing.assert_close(gradient(TALR(temperature=temperature, floor=0.0), nll), potential.grad, rtol=1e-10, atol=1e-14)


def test_fixed_temperature_with_floor_has_the_gradient_of_its_potential() -> None:
    temperature, floor = 0.5, 0.01
    nll = random_nll()
    border = -temperature * math.log(floor)
    potential = nll.clone().requires_grad_()
    soft = temperature * (1 - torch.exp(-potential / temperature))
    linear = temperature * (1 - floor) + floor * (potential - border)
    torch.where(potential <= border, soft, linear).sum().backward()
    assert (nll > border).any() and (nll < border).any()
    torch.testing.assert_close(gradient(TALR(temperature=temperature, floor=floor), nll), potential.grad, rtol=1e-10, atol=0)


def test_weights_are_detached_where_it_would_change_the_sign() -> None:
    nll = torch.tensor([[3.0]], dtype=torch.float64)  # above the temperature, where d/dl [exp(-l) l] = exp(-l) (1 - l) < 0
    undetached = nll.clone().requires_grad_()
    (torch.exp(-undetached) * undetached).sum().backward()
    assert undetached.grad is not None and undetached.grad.item() < 0
    assert gradient(TALR(temperature=1.0, floor=0.0), nll).item() == pytest.approx(math.exp(-3.0), rel=1e-12)


def test_sequence_statistic_is_the_lower_median_of_the_sequences_mean_nll() -> None:
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True], [False, False]])
    nll = torch.tensor([[1.0, 3.0], [4.0, 9.0], [0.0, 1.0], [5.0, 7.0], [8.0, 8.0]])
    assert TALR().batch_temperature(stats_of(nll, mask)).item() == 2.0  # of 2, 4, 0.5 and 6: the lower of the two in the middle


def test_token_statistic_is_the_lower_median_of_the_supervised_tokens() -> None:
    mask = torch.tensor([[True, True, False], [True, True, False]])
    nll = torch.tensor([[1.0, 3.0, 100.0], [4.0, 9.0, 100.0]])
    assert TALR(statistic="token").batch_temperature(stats_of(nll, mask)).item() == 3.0


def test_weights_are_those_of_a_plain_loop() -> None:
    stats = random_stats()
    means = sorted(row[kept].mean().item() for row, kept in zip(stats.nll, stats.mask, strict=True) if kept.any())
    temperature = means[(len(means) - 1) // 2]
    weights = TALR(floor=0.05).weights(stats)
    for row, column in stats.mask.nonzero().tolist():
        expected = max(math.exp(-stats.nll[row, column].item() / temperature), 0.05)
        assert weights[row, column].item() == pytest.approx(expected, rel=1e-12)


def test_floor_is_active_exactly_from_temperature_times_the_log_of_its_inverse() -> None:
    temperature, floor = 0.35, 0.01
    border = temperature * math.log(1 / floor)
    nll = torch.tensor([[border - 1e-9, border + 1e-9]], dtype=torch.float64)
    below, above = TALR(temperature=temperature, floor=floor).weights(stats_of(nll))[0].tolist()
    assert below > floor
    assert above == floor
    assert math.exp(-border) == pytest.approx(0.2, abs=0.001)  # the p below which the floor holds at this temperature


def test_temperature_is_never_below_its_least_value() -> None:
    assert TALR().batch_temperature(stats_of(torch.zeros(2, 3))).item() == pytest.approx(1e-6)


@pytest.mark.parametrize("scope", ["micro_batch", "ranks", "step"])
@pytest.mark.parametrize(("least", "temperature"), [(0.0, 2.0), (1.5, 2.0), (5.0, 5.0)])
def test_a_least_temperature_replaces_smaller_medians_alone(scope: Any, least: float, temperature: float) -> None:
    stats = stats_of(torch.tensor([[1.0, 3.0], [3.0, 4.0], [0.0, 1.0], [5.0, 7.0]], dtype=torch.float64))  # means 2, 3.5, 0.5 and 6
    loss = TALR(scope=scope, least_temperature=least)
    observed(loss, stats)
    loss.step_end()
    assert loss.batch_temperature(stats).item() == temperature
    assert loss.metrics()["talr/temperature"].item() == temperature, "the log has the one that was used"
    expected = (-stats.nll / temperature).exp().clamp(min=0.01)
    torch.testing.assert_close(gradient(loss, stats.nll), expected, rtol=1e-12, atol=0)


def test_a_median_above_the_least_temperature_is_the_papers_loss() -> None:
    stats = random_stats()
    assert torch.equal(TALR(least_temperature=0.5).weights(stats), TALR().weights(stats))
    assert torch.equal(TALR(least_temperature=50.0).weights(stats), TALR(temperature=50.0).weights(stats))


@pytest.mark.parametrize("statistic", ["sequence", "token"])
def test_order_and_padding_change_nothing(statistic: Any) -> None:
    stats = random_stats()
    loss = TALR(statistic=statistic)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    shuffled = TokenStats(stats.nll[order], stats.mask[order], torch.arange(5).unsqueeze(1).expand(5, 7))
    pad = torch.nn.functional.pad
    padded = TokenStats(pad(stats.nll, (3, 2, 1, 1)), pad(stats.mask, (3, 2, 1, 1)), pad(stats.sequence_ids + 1, (3, 2, 1, 1)))
    torch.testing.assert_close(total(loss, shuffled), total(loss, stats), rtol=1e-12, atol=0)
    torch.testing.assert_close(total(loss, padded), total(loss, stats), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.weights(shuffled), loss.weights(stats)[order], rtol=1e-12, atol=0)


def test_packed_rows_give_the_same_weights() -> None:
    """Two sequences in one row count as two."""
    stats = stats_of(random_nll(shape=(2, 3)))
    packed = TokenStats(stats.nll.reshape(1, 6), stats.mask.reshape(1, 6), torch.tensor([[0, 0, 0, 1, 1, 1]]))
    torch.testing.assert_close(TALR().weights(packed).reshape(2, 3), TALR().weights(stats), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [TALR(), TALR(statistic="token"), TALR(normalize=True), TALR(scope="ranks")])
def test_an_empty_micro_batch_gives_zero_and_zero_gradient(loss: TALR) -> None:
    nll = torch.zeros(1, 2, requires_grad=True)
    value = total(loss, stats_of(nll, torch.zeros(1, 2, dtype=torch.bool)))
    value.backward()
    assert value.item() == 0
    assert nll.grad is not None and not nll.grad.any()


def test_empty_micro_batches_do_not_count_in_the_logged_temperature() -> None:
    loss = TALR()
    total(loss, stats_of(torch.full((1, 2), 2.0)))
    total(loss, stats_of(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)))
    total(loss, stats_of(torch.full((1, 2), 4.0)))
    loss.step_end()
    assert loss.metrics()["talr/temperature"].item() == 3.0


def test_a_non_finite_nll_is_not_hidden() -> None:
    nll = torch.tensor([[1.0, math.nan]])
    assert torch.isnan(total(TALR(), stats_of(nll)))


def test_normalize_gives_the_simplex_weights_times_their_number() -> None:
    stats = random_stats()
    plain, normalized = TALR(floor=0.0), TALR(floor=0.0, normalize=True)
    expected = torch.softmax(-stats.nll[stats.mask] / plain.batch_temperature(stats), 0) * stats.mask.sum()
    torch.testing.assert_close(normalized.weights(stats)[stats.mask], expected, rtol=1e-12, atol=0)


def test_step_scope_uses_the_median_of_all_micro_batches_of_the_last_step() -> None:
    loss = TALR(scope="step")
    first = [random_stats(1), random_stats(2)]
    for stats in first:
        assert observed(loss, stats)[stats.mask].eq(1).all()
    loss.step_end()
    means = sorted(row[kept].mean().item() for stats in first for row, kept in zip(stats.nll, stats.mask, strict=True) if kept.any())
    median = means[(len(means) - 1) // 2]
    assert loss.metrics()["talr/temperature"].item() == pytest.approx(median, rel=1e-12)
    later = random_stats(3)
    torch.testing.assert_close(loss.weights(later), TALR(temperature=median).weights(later), rtol=1e-12, atol=0)


def test_step_temperature_survives_a_checkpoint(tmp_path: Any) -> None:
    loss = TALR(scope="step")
    total(loss, random_stats(1))
    loss.step_end()
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    resumed = TALR(scope="step")
    resumed.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert torch.equal(resumed.weights(random_stats(2)), loss.weights(random_stats(2)))


def test_step_temperature_is_not_rounded_by_an_engine_that_casts_the_module() -> None:
    loss = TALR(scope="step")
    total(loss, random_stats(1))
    loss.step_end()
    before = loss.step_temperature
    loss.bfloat16()
    assert before is not None and torch.equal(loss.step_temperature, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0, got 0.0"),
        ({"temperature": math.nan}, "`temperature` must be above 0, got nan"),
        ({"floor": 2.0}, r"`floor` must lie in \[0, 1\], got 2.0"),
        ({"normalize": True, "scope": "step"}, "use `scope: ranks`"),
        ({"temperature": 1.0, "least_temperature": 2.0}, "`least_temperature` bounds the median, which a fixed `temperature` replaces, got 2.0 and 1.0"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TALR(**arguments)


def test_the_first_step_of_scope_step_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lit_talr"):
        observed(TALR(scope="step"), random_stats())
    assert "every weight is 1 until the first optimizer step has ended" in caplog.text
