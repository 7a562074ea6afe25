import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from lit_talr.losses import L2, TALR, Standard
from lit_talr.losses.anchored import add_pull


def train(
    model: nn.Module,
    loss: L2 | None,
    make: Callable[[Iterable[Tensor]], Optimizer],
    penalty: float = 0.0,
    steps: int = 5,
    with_closure: bool = False,
) -> list[Tensor]:
    """Steps on a fixed regression; ``penalty`` adds the autograd form of the regularisation instead."""
    optimizer = make(model.parameters())
    if loss is not None:
        loss.attach(optimizer)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = (model(inputs) - 3).square().mean()
        if penalty:
            value = value + penalty * sum((p - s).square().sum() for p, s in zip(model.parameters(), start, strict=True))
        value.backward()
        return value

    for _ in range(steps):
        if with_closure:  # as Lightning calls it
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        if loss is not None:
            loss.step_end()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.1), lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: AdamW(p, lr=0.1)])
@pytest.mark.parametrize("with_closure", [False, True])
def test_equals_the_gradient_of_the_penalty_by_autograd(model: nn.Module, make: Callable[[Iterable[Tensor]], Optimizer], with_closure: bool) -> None:
    other = copy.deepcopy(model)
    ours = train(model, L2(Standard(), coefficient=0.3), make, with_closure=with_closure)
    expected = train(other, None, make, penalty=0.3)
    for value, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-9)


def test_coefficient_0_is_bitwise_the_inner_loss(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    ours = train(model, L2(Standard(), coefficient=0.0), lambda p: AdamW(p, lr=0.1))
    expected = train(other, None, lambda p: AdamW(p, lr=0.1))
    assert all(torch.equal(value, wanted) for value, wanted in zip(ours, expected, strict=True))


def test_logs_the_distance_that_the_step_found(model: nn.Module) -> None:
    start = [parameter.detach().clone() for parameter in model.parameters()]
    loss = L2(TALR(temperature=1.0), coefficient=0.3)
    assert loss.metrics() == {}
    two = train(copy.deepcopy(model), L2(Standard(), coefficient=0.3), lambda p: SGD(p, lr=0.1), steps=2)
    train(model, loss, lambda p: SGD(p, lr=0.1), steps=3)
    squares = sum((value - origin).square().sum() for value, origin in zip(two, start, strict=True))
    assert loss.metrics()["l2/distance"].item() == pytest.approx(float(squares) ** 0.5, rel=1e-5)
    assert loss.metrics()["l2/penalty"].item() == pytest.approx(0.3 * float(squares), rel=1e-5)


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.1), lambda p: AdamW(p, lr=0.1)])
def test_anchors_stay_those_of_the_start_after_a_resume(model: nn.Module, make: Callable[[Iterable[Tensor]], Optimizer]) -> None:
    whole = train(copy.deepcopy(model), L2(Standard(), coefficient=0.3), make, steps=4)
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def step(model: nn.Module, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        (model(inputs) - 3).square().mean().backward()
        optimizer.step()

    optimizer = make(model.parameters())
    L2(Standard(), coefficient=0.3).attach(optimizer)
    for _ in range(2):
        step(model, optimizer)
    resumed_model = copy.deepcopy(model)
    resumed = make(resumed_model.parameters())
    L2(Standard(), coefficient=0.3).attach(resumed)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        step(resumed_model, resumed)
    assert all(torch.equal(value, wanted) for value, wanted in zip(resumed_model.parameters(), whole, strict=True))


def test_weights_without_gradient_are_left_alone(model: nn.Module) -> None:
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    train(model, L2(Standard(), coefficient=0.3), lambda p: SGD(p, lr=0.1))
    assert torch.equal(model[0].weight, before)


def test_refuses_a_negative_coefficient() -> None:
    with pytest.raises(ValueError, match="`coefficient` must lie in .0, inf., got -1"):
        L2(Standard(), coefficient=-1.0)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 9), (0, 4)])
def test_slices_add_up_to_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.losses.anchored.SLICE", 4)
    weight, anchor, scale, gradient = (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in range(4))
    distance = weight - anchor
    for factor, scaled in ((None, distance), (scale, scale * distance)):
        changed = gradient.clone()
        sums = add_pull(weight, anchor, factor, changed, 0.3)
        torch.testing.assert_close(changed, gradient + 0.3 * scaled)
        torch.testing.assert_close(sums, torch.stack([distance.square().sum(), (distance * scaled).sum()]))
