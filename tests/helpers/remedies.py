"""Remedies that are an optimizer or a schedule: their options for ``fit``, and the naive loop that each must equal."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lit_talr.training.schedules import FINCH
from tests.helpers import naive

STEPS = 10
LR, CAP = 0.01, 0.43
ADAMW = partial(AdamW, lr=LR)
REMEDIES: dict[str, Callable[[], dict[str, Any]]] = {
    "finch": lambda: {"optimizer": ADAMW, "schedule": FINCH(cap=CAP)},
}


def precision(strategy: str) -> str:
    """The most exact precision of a strategy; DeepSpeed has no float64."""
    return "32-true" if strategy.startswith("zero") else "64-true"


def naive_finch(folder: Path, steps: int, dtype: torch.dtype, means: list[float]) -> dict[str, Tensor]:
    """The rates by hand; ``means`` gets the running mean of the NLL."""

    def follow(step: int, nll: float, optimizer: Optimizer) -> None:
        means.append(nll if not means else 0.9 * means[-1] + 0.1 * nll)
        optimizer.param_groups[0]["lr"] = LR * min((means[-1] + 1e-8) ** -0.5, CAP)

    return naive.loop(folder, steps, lambda named: ADAMW([weight for _, weight in named]), follow, dtype)


def naive_weights(name: str, folder: Path, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"finch": partial(naive_finch, means=[])}[name](folder, steps, dtype)
