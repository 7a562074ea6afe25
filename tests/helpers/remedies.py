"""Remedies that are an optimizer, a schedule or a penalty: their options for ``fit``, and the naive loop that each must equal."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lit_talr.losses import EWC, Standard
from lit_talr.training.hft import HalfFineTuning, chosen_half
from lit_talr.training.mofo import MoFO
from lit_talr.training.schedules import FINCH
from tests.helpers import naive
from tests.helpers.ewc import ADAMW, COEFFICIENT, LR, ROWS, naive_ewc

STEPS = 10
CAP, FRACTION, STEPS_PER_ROUND = 0.43, 0.15, 4
EPS = 1e-4
"""Of half fine-tuning, each of whose rounds has a first step, the gradient by its own magnitude: 1e-8 would make rounding visible in float32."""
REMEDIES: dict[str, Callable[[], dict[str, Any]]] = {
    "mofo": lambda: {"optimizer": partial(MoFO, lr=LR, fraction=FRACTION, weight_decay=0.1)},
    "hft": lambda: {"optimizer": partial(HalfFineTuning, lr=LR, steps_per_round=STEPS_PER_ROUND, seed=1, eps=EPS, weight_decay=0.1)},
    "ewc": lambda: {"optimizer": ADAMW, "loss": EWC(Standard(), COEFFICIENT, ROWS, "train")},
    "finch": lambda: {"optimizer": ADAMW, "schedule": FINCH(cap=CAP)},
}


def precision(strategy: str) -> str:
    """The most exact precision of a strategy; Lightning has float64 without DeepSpeed and FSDP2 only."""
    return "64-true" if strategy == "ddp" else "32-true"


def naive_finch(folder: Path, steps: int, dtype: torch.dtype, means: list[float]) -> dict[str, Tensor]:
    """The rates by hand; ``means`` gets the running mean of the NLL."""

    def follow(step: int, nll: float, optimizer: Optimizer) -> None:
        means.append(nll if not means else 0.9 * means[-1] + 0.1 * nll)
        optimizer.param_groups[0]["lr"] = LR * min((means[-1] + 1e-8) ** -0.5, CAP)

    return naive.loop(folder, steps, lambda named: ADAMW([weight for _, weight in named]), follow, dtype)


class NaiveMoFO(Optimizer):
    """Sorts the momenta of each matrix."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {})
        self.averages = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in parameters]
        self.num_done = 0

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        self.num_done += 1
        for weight, (first, second) in zip(self.param_groups[0]["params"], self.averages, strict=True):
            first.copy_(0.9 * first + 0.1 * weight.grad)
            second.copy_(0.999 * second + 0.001 * weight.grad**2)
            least = first.abs().flatten().sort(descending=True).values[int(FRACTION * weight.numel()) - 1] if weight.ndim > 1 else 0
            update = first / (1 - 0.9**self.num_done) / ((second / (1 - 0.999**self.num_done)).sqrt() + 1e-8)
            weight.copy_(weight * (1 - LR * 0.1) - LR * torch.where(first.abs() >= least, update, 0))


def naive_mofo(folder: Path, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return naive.loop(folder, steps, lambda named: NaiveMoFO([weight for _, weight in named]), lambda *_: None, dtype)


class NaiveHalf(Optimizer):
    """A new AdamW of the chosen parameters alone in each round."""

    def __init__(self, named: list[tuple[str, Tensor]]) -> None:
        super().__init__([weight for _, weight in named], {})
        self.names, self.num_done = tuple(name for name, _ in named), 0

    def step(self) -> None:  # type: ignore[override]
        if self.num_done % STEPS_PER_ROUND == 0:
            chosen = chosen_half(self.names, 1, self.num_done // STEPS_PER_ROUND)
            self.inner = AdamW([self.param_groups[0]["params"][number] for number in sorted(chosen)], lr=LR, eps=EPS, weight_decay=0.1)
        self.inner.step()
        self.num_done += 1


def naive_hft(folder: Path, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return naive.loop(folder, steps, NaiveHalf, lambda *_: None, dtype)


def naive_weights(name: str, folder: Path, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"hft": naive_hft, "ewc": naive_ewc, "finch": partial(naive_finch, means=[]), "mofo": naive_mofo}[name](folder, steps, dtype)
