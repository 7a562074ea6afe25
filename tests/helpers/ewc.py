"""EWC by hand: its Fisher information in a loop over examples, and a naive trainer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW

from lit_talr.modeling.loading import load_model
from lit_talr.theory.drift import sample
from lit_talr.training.fisher import LENGTH, chosen_rows
from tests.helpers import naive
from tests.helpers.fits import records

LR, COEFFICIENT, ROWS = 0.01, 0.05, 6
ADAMW = partial(AdamW, lr=LR)


def naive_examples(folder: Path, model: Any, source: str, number: int) -> list[tuple[Tensor, Tensor]]:
    """The tokens of each example, and which of them are learned."""
    if source == "base":
        tokens = sample(model, 258, number, LENGTH, torch.Generator().manual_seed(0))
        return [(row, torch.arange(LENGTH + 1) > 0) for row in tokens]
    data = records(folder)
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.encode("train")
    rows = data.encoded["train"]
    parts = [slice(rows.offsets[row], rows.offsets[row + 1]) for row in chosen_rows(len(rows), number)]
    return [(torch.as_tensor(rows.tokens[part].astype("int64")), torch.as_tensor(rows.supervised[part])) for part in parts]


def naive_fisher(folder: Path, source: str, number: int) -> dict[str, Tensor]:
    """In float64: for each example one backward of its summed cross-entropy from all logits, squared and averaged."""
    torch.set_default_dtype(torch.float64)
    model = load_model(str(folder / "model"), None, None, 0, None).eval()
    torch.set_default_dtype(torch.float32)
    examples = naive_examples(folder, model, source, number)
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for tokens, learned in examples:
        model.zero_grad()
        logits = model(tokens[None]).logits[0, :-1]
        functional.cross_entropy(logits[learned[1:]], tokens[1:][learned[1:]], reduction="sum").backward()
        for name, weight in model.named_parameters():
            total[name] += weight.grad.detach() ** 2 / len(examples)
    return total


def naive_ewc(folder: Path, steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """AdamW on the step's own gradient plus coefficient * F * d."""
    fisher = {name: value.to(dtype) for name, value in naive_fisher(folder, "train", ROWS).items()}
    weights: dict[str, Tensor] = {}
    start: dict[str, Tensor] = {}

    def make(named: list[tuple[str, Tensor]]) -> AdamW:
        weights.update(named)
        start.update({name: weight.detach().clone() for name, weight in named})
        return ADAMW([weight for _, weight in named])

    def pull(*_: object) -> None:
        for name, weight in weights.items():
            assert weight.grad is not None
            weight.grad += COEFFICIENT * fisher[name] * (weight.detach() - start[name])

    return naive.loop(folder, steps, make, pull, dtype)
