"""Text that the base model writes, with its hidden states: sampled once and cached by content."""

from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lit_talr.theory.drift import sample
from lit_talr.theory.walk import check_context
from lit_talr.training.base_model import BaseModel
from lit_talr.utils.cache import ContentCache, Entry, read_or_compute
from lit_talr.utils.waiting import on_rank_zero

FORMAT = 1
"""Part of every key; raise it when the same content would give other numbers."""
ROWS = 32
"""Sequences in a forward pass."""


class BaseText(NamedTuple):
    """Sequences sampled from the base model."""

    tokens: Tensor  # [S, T + 1] int64, the first of each row given
    hidden: Tensor  # [S, T, D], its decoder's output at all but the last token


def base_text(trainer: Trainer, model: BaseModel, first_token: int, num_sequences: int, length: int, seed: int) -> BaseText:
    """Sequences from the base model, sampled by rank zero where they are not in the cache. Collective.

    Args:
        trainer: Knows the ranks, the device and the run folder.
        model: The base model, not loaded yet.
        first_token: Stands before every sequence.
        num_sequences: S.
        length: T, the sampled tokens of a sequence.
        seed: Of the sampling.
    """

    def compute() -> Entry:
        return Entry(on_rank_zero(trainer, lambda: sample_text(trainer, model, first_token, num_sequences, length, seed), "samples from the base model"))

    about = f"{FORMAT} {model.identity(trainer)} {first_token} {num_sequences} {length} {seed}"
    entry = read_or_compute(trainer, ContentCache(trainer.default_root_dir, "base-text", about), compute)
    return BaseText(entry.tensors["tokens"], entry.tensors["hidden"])


def sample_text(trainer: Trainer, model: BaseModel, first_token: int, num_sequences: int, length: int, seed: int) -> dict[str, Tensor]:
    """The fields of a ``BaseText`` on the CPU, from a separate copy of the base model in the arithmetic of scores. Not collective."""
    backbone = model.load(trainer)
    check_context(backbone.model, length)
    generator, device = torch.Generator().manual_seed(seed), trainer.strategy.root_device
    with torch.no_grad(), model.forward_context(trainer):
        tokens = sample(backbone.model, first_token, num_sequences, length, generator)
        hidden = torch.cat([backbone.base_logits(rows).hidden for rows in tokens[:, :-1].to(device).split(ROWS)]).cpu()
    del backbone
    torch.cuda.empty_cache()
    return {"tokens": tokens, "hidden": hidden}
