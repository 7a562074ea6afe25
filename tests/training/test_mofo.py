import os
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import AdamW

from lit_talr.losses import L2, Standard
from lit_talr.modeling.sharded import Part
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy
from lit_talr.training.mofo import MoFO, bits, kth_largest
from tests.helpers.fits import distance, fit
from tests.helpers.params import first_is_fast
from tests.helpers.remedies import REMEDIES, STEPS, naive_mofo


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((8, 6), (1, 3), (7,))]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()


def test_fraction_1_is_adamw() -> None:
    ours, theirs = weights(), weights()
    train(MoFO(ours, lr=0.1, fraction=1.0, weight_decay=0.1), ours, range(4))
    train(AdamW(theirs, lr=0.1, weight_decay=0.1, foreach=False), theirs, range(4))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_step_moves_the_fraction_with_the_largest_momentum_and_norms_whole() -> None:
    ours = weights()
    train(MoFO(ours, lr=0.1, fraction=0.25), ours, range(1))
    moved = [one.detach() != start for one, start in zip(ours, weights(), strict=True)]
    assert [int(mask.sum()) for mask in moved] == [12, 1, 7]  # a quarter, at least one weight, all
    gradient = ours[0].grad.abs()
    assert gradient[moved[0]].min() > gradient[~moved[0]].max()


def test_equal_momenta_at_the_threshold_all_move() -> None:
    parameter = nn.Parameter(torch.zeros(2, 4))
    parameter.grad = torch.tensor([[3.0, -2.0, 2.0, 1.0], [2.0, 0.0, 0.0, 0.0]])
    MoFO([parameter], lr=1.0, fraction=0.25).step()
    assert (parameter != 0).tolist() == [[True, True, True, False], [True, False, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_threshold_from_bits_is_that_of_sorting(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    parts = {2: torch.randn(101, generator=draw).to(dtype), 0: torch.zeros(5, dtype=dtype), 3: torch.tensor([-1e-30, 1e30, 0.0, -2.0], dtype=dtype)}
    sizes = torch.tensor([2, 9, 17, 3])
    found = kth_largest(parts, sizes, dtype)
    for number, part in parts.items():
        assert found[number] == bits(part.abs().sort(descending=True).values[sizes[number] - 1])


def test_parts_of_one_flat_tensor_are_filtered_one_by_one() -> None:
    """As under ZeRO, where a rank steps one tensor with padding."""
    ours, theirs = weights(), weights()
    optimizer, other = MoFO(ours, lr=0.1, fraction=0.25), MoFO(theirs, lr=0.1, fraction=0.25)
    flat = nn.Parameter(torch.cat([*(weight.detach().flatten() for weight in ours), torch.full((2,), 5.0)]))
    optimizer.param_groups[0]["params"] = [flat]
    optimizer.split(lambda: {flat: [Part(0, 0, 48, 0), Part(1, 48, 51, 0), Part(2, 51, 58, 0)]})
    for step in range(3):
        train(other, theirs, range(step, step + 1))
        flat.grad = torch.cat([*(weight.grad.flatten() for weight in theirs), torch.zeros(2)])
        optimizer.step()
    assert torch.equal(flat, torch.cat([*(weight.detach().flatten() for weight in theirs), torch.full((2,), 5.0)]))


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped() -> None:
    whole, parts = weights(), weights()
    train(MoFO(whole, lr=0.1), whole, range(4))
    first = MoFO(parts, lr=0.1)
    train(first, parts, range(2))
    second = MoFO(parts, lr=0.1)
    second.load_state_dict(deepcopy(first.state_dict()))
    train(second, parts, range(2, 4))
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_weights_without_a_gradient_stay() -> None:
    ours = weights()
    optimizer = MoFO(ours, lr=0.1, weight_decay=0.5)
    ours[0].grad = torch.ones(8, 6)
    optimizer.step()
    assert all(torch.equal(one, start) for one, start in zip(ours[1:], weights()[1:], strict=True))


def test_the_closure_is_called_with_gradients_on() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = MoFO([parameter], lr=0.5, fraction=1.0, eps=0.0)

    def closure() -> Tensor:
        loss = parameter.sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, r"`fraction` must lie in \(0, 1\], got 0.0; 1 updates all weights"),
        ({"fraction": 15}, r"`fraction` must lie in \(0, 1\], got 15"),
        ({"betas": (0.9, 1.0)}, r"`betas` must lie in \[0, 1\), got 1.0"),
        ({"lr": -1.0}, r"`lr` must lie in \[0, inf\), got -1.0"),
        ({"weight_decay": -1.0}, r"`weight_decay` must lie in \[0, inf\), got -1.0"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoFO(weights(), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", first_is_fast(2, 8))
def test_ten_steps_are_those_of_a_naive_loop(folder: Path, micro_batch_size: int) -> None:
    wanted, start = (naive_mofo(folder, steps, torch.float64) for steps in (STEPS, 0))
    found = fit(folder, Standard(), STEPS, batching={"micro_batch_size": micro_batch_size}, **REMEDIES["mofo"]())
    assert distance(found, wanted, start) < 1e-6


@pytest.mark.slow
def test_resumed_is_bitwise_uninterrupted_around_a_penalty(folder: Path, tmp_path: Path) -> None:
    options = {"optimizer": partial(MoFO, lr=0.01), "batching": {"micro_batch_size": 4}}
    whole = fit(folder, L2(Standard(), 0.05), 8, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1)
    fit(folder, L2(Standard(), 0.05), 5, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, L2(Standard(), 0.05), 8, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match="its model.optimizer.fraction is 0.15, here 0.5"):
        fit(folder, L2(Standard(), 0.05), 8, ckpt_path=str(checkpoint), **{**options, "optimizer": partial(MoFO, lr=0.01, fraction=0.5)})


@pytest.fixture
def without_ranks() -> Iterator[None]:
    """DeepSpeed starts a process group, and sets variables of ranks, before anything is refused; later tests in this process have neither."""
    variables = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(variables)
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("without_ranks")
def test_an_optimizer_on_the_cpu_is_refused(folder: Path) -> None:
    trainer = {"strategy": DeepSpeedCPUStrategy(stage=3, offload=True), "precision": "32-true"}
    with pytest.raises(ValueError, match="MoFO is not supported with DeepSpeed's `offload_optimizer`, which moves the optimizer to the CPU; leave it out"):
        fit(folder, Standard(), 1, optimizer=partial(MoFO, lr=0.01), trainer=trainer)
