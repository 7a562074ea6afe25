"""``talr_weights`` and ``talr_loss``: the strategy's numbers for a training loop of one's own, from torch alone."""

import math
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_talr import TALR, TokenStats, talr_loss, talr_weights


def random_batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """NLL, mask and sequence ids of a micro-batch of random shape, whose rows hold one or several sequences."""
    draw = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(1, 9, (), generator=draw)) for _ in range(2))
    nll = torch.rand(rows, width, generator=draw) ** 3 * 12
    mask = torch.rand(rows, width, generator=draw) < (0.8 if seed % 10 else 0.0)
    starts = torch.rand(rows, width, generator=draw) < 0.3
    starts[:, 0] = True
    return nll, mask, starts.flatten().cumsum(0).view(rows, width) - 1


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_weights_are_bitwise_those_of_the_strategy(first: int) -> None:
    for seed in range(first, first + 50):
        nll, mask, ids = random_batch(seed)
        options: dict[str, Any] = {
            "statistic": ("sequence", "token")[seed % 2],
            "floor": (0.01, 0.0, 0.3)[seed % 3],
            "temperature": (None, None, 0.7, math.inf)[seed % 4],
        }
        expected = torch.where(mask, TALR(**options).weights(TokenStats(nll, mask, ids)), 0)
        assert torch.equal(talr_weights(nll, mask, sequence_ids=ids, **options), expected)


def test_each_row_is_a_sequence_by_default() -> None:
    nll, mask, _ = random_batch(1)
    rows = torch.arange(len(nll))[:, None].expand(nll.shape)
    assert torch.equal(talr_weights(nll, mask), talr_weights(nll, mask, sequence_ids=rows))


def test_values_outside_the_mask_do_not_matter_and_weigh_nothing() -> None:
    nll, mask, ids = random_batch(3)
    weights = talr_weights(nll, mask, sequence_ids=ids)
    assert torch.equal(talr_weights(nll.masked_fill(~mask, math.nan), mask, sequence_ids=ids), weights)
    assert not weights[~mask].any() and not weights.requires_grad


def naive_loss(logits: Tensor, labels: Tensor, number: int, floor: float) -> Tensor:
    """Token by token, one sequence a row."""
    nll = [
        [-row[position].log_softmax(0)[token] for position, token in enumerate(tokens[1:].tolist()) if token != -100]
        for row, tokens in zip(logits, labels, strict=True)
    ]
    means = sorted(sum(map(float, map(Tensor.detach, row))) / len(row) for row in nll if row)
    temperature = means[(len(means) - 1) // 2]
    return sum((max(math.exp(-value.item() / temperature), floor) * value for row in nll for value in row), start=torch.zeros(())) / number


@pytest.mark.parametrize(("number", "floor"), [(None, 0.01), (40, 0.2)])
def test_the_loss_and_its_gradient_are_those_of_the_formula(number: int | None, floor: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 9, 13) * 3, torch.randint(0, 13, (4, 9))
    labels[:, :3], labels[1, 6:], labels[3] = -100, -100, -100
    first, second = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = partial(talr_loss, floor=floor)({"logits": first}, labels, num_items_in_batch=number)
    expected = naive_loss(second, labels, number or int((labels[:, 1:] != -100).sum()), floor)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(*torch.autograd.grad(loss, first), *torch.autograd.grad(expected, second), rtol=1e-4, atol=1e-7)


def test_nothing_supervised_gives_zero() -> None:
    logits = torch.randn(2, 4, 5, requires_grad=True)
    talr_loss({"logits": logits}, torch.full((2, 4), -100)).backward()
    assert logits.grad is not None and not logits.grad.any()


NLL, MASK, LOGITS = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: talr_weights(NLL, MASK[0]), r"`nll`, `mask` and `sequence_ids` must all be \[B, T\], got \[2, 3\], \[3\]"),
        (lambda: talr_weights(NLL[0], MASK[0]), r"must all be \[B, T\], got \[3\], \[3\]"),
        (lambda: talr_weights(NLL, MASK, sequence_ids=torch.zeros(2, dtype=torch.int64)), r"got \[2, 3\], \[2, 3\], \[2\]"),
        (lambda: talr_weights(NLL.bfloat16(), MASK), "`nll` must be float32 or float64 and `mask` bool, got torch.bfloat16"),
        (lambda: talr_weights(NLL, MASK.long()), "and `mask` bool, got torch.float32 and torch.int64"),
        (lambda: talr_weights(NLL, MASK, sequence_ids=torch.zeros(2, 3)), "`sequence_ids` must be int64, got torch.float32"),
        (lambda: talr_weights(NLL, MASK, temperature=0.0), "`temperature` must be above 0, got 0.0"),
        (lambda: talr_weights(NLL, MASK, floor=1.5), r"`floor` must lie in \[0, 1\], got 1.5"),
        (lambda: talr_weights(NLL, MASK, statistic="median"), "`statistic` must be sequence or token, got 'median'"),  # type: ignore[arg-type]
        (
            lambda: talr_loss({"logits": torch.ones(2, 3, 4)}, torch.ones(2, 4)),
            r"`logits` and `labels` must be \[B, T, V\] and \[B, T\], got \[2, 3, 4\] and \[2, 4\]",
        ),
        (lambda: talr_loss({"logits": torch.ones(2, 3)}, torch.ones(2, 3)), r"must be \[B, T, V\] and \[B, T\], got \[2, 3\] and \[2, 3\]"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_they_need_torch_alone() -> None:
    code = "import sys; from lit_talr import talr_loss, talr_weights; print({name.split('.')[0] for name in sys.modules} & {'lightning', 'transformers'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
