from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lit_talr.lab.muon import Muon, orthogonal


def weights() -> list[nn.Parameter]:
    """Two matrices of layers, an embedding and a norm."""
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (24, 8), (200, 8), (8,))]


def gradients(step: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(step)
    return [torch.randn(weight.shape, generator=draw) for weight in weights()]


def moved(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()


def test_steps_are_torchs_muon_on_matrices_and_adamw_on_the_rest() -> None:
    ours, theirs = weights(), weights()
    moved(Muon(ours, lr=0.1), ours, range(3))
    parts = [
        torch.optim.Muon(theirs[:2], lr=0.1, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(theirs[2:], lr=0.1, betas=(0.9, 0.95), weight_decay=0),
    ]
    for part in parts:
        moved(part, theirs, range(3))
    for mine, other, start in zip(ours[:2], theirs[:2], weights(), strict=False):
        assert float((mine - other).detach().norm()) < 0.02 * float((other - start).detach().norm())  # torch's iterations are in bfloat16
    for mine, other in zip(ours[2:], theirs[2:], strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("shape", [(8, 8), (3, 9), (9, 3)])
def test_an_orthogonal_matrix_keeps_the_directions_of_the_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix) @ right.T
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.3
    torch.testing.assert_close(found, torch.diag(found.diagonal()), rtol=0, atol=1e-4)


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped() -> None:
    whole, parts = weights(), weights()
    moved(Muon(whole), whole, range(4))
    first = Muon(parts)
    moved(first, parts, range(2))
    second = Muon(parts)
    second.load_state_dict(deepcopy(first.state_dict()))
    moved(second, parts, range(2, 4))
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_a_schedule_sets_both_rates() -> None:
    parameters = weights()
    optimizer = Muon(parameters, lr=1.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    moved(optimizer, parameters, range(1))
    assert all(torch.equal(one, other) for one, other in zip(parameters, weights(), strict=True))


def test_refusal() -> None:
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\), got 1"):
        Muon(weights(), momentum=1.0)


def test_what_a_loss_keeps_in_the_state_of_any_weight_is_in_the_checkpoint() -> None:
    """L2 keeps its anchors there."""
    first, second = weights(), weights()
    optimizer = Muon(first)
    moved(optimizer, first, range(1))
    for parameter in first:
        optimizer.state[parameter]["anchor"] = parameter.detach() + 1
    other = Muon(second)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for mine, theirs in zip(second, first, strict=True):
        assert torch.equal(other.state[mine]["anchor"], theirs.detach() + 1)
    assert other.param_groups[1] is other.rest.param_groups[0]


def test_matrices_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices only, such as LoRA's; use AdamW"):
        Muon(weights()[:2])
