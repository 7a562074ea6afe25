"""The diagonal Fisher information of the base model: computed once, cached by content, read in parts."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from torch import Tensor

from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.encoded import EncodedExamples
from lit_talr.domains.base import DomainDataModule
from lit_talr.losses.base import LossStrategy
from lit_talr.losses.ewc import EWC
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.sharded import Part
from lit_talr.modeling.strategies import shards_weights
from lit_talr.theory.drift import sample
from lit_talr.theory.walk import start_token
from lit_talr.training.base_model import BaseModel
from lit_talr.utils.cache import ContentCache, Entry, read_or_compute
from lit_talr.utils.collectives import local, sum_over_ranks
from lit_talr.utils.progress import track
from lit_talr.utils.waiting import on_rank_zero

FORMAT = "1"
"""Part of every key; raise it when the same content would give other numbers."""
LENGTH = 128
"""Tokens of a sampled sequence; fewer where the model has fewer positions."""
TOGETHER = 32
"""Sequences that are sampled at once."""


class Fisher(NamedTuple):
    """The mean squared gradient of each trained weight."""

    tensors: Mapping[str, Tensor]  # by the parameter's name in the backbone, of its shape; float32 (float64 for a float64 model), memory-mapped
    key: str  # hash of weights, examples and options


def fisher_losses(loss: LossStrategy) -> list[EWC]:
    """The strategies in a loss that need a Fisher information, outermost first."""
    return [part for part in loss.modules() if isinstance(part, EWC) and part.coefficient > 0]


def load_fisher(trainer: Trainer, data: DomainDataModule, ewc: EWC, base: BaseModel) -> Fisher:
    """Reads the Fisher information from the cache, or computes it in parallel over the ranks. Collective.

    Args:
        trainer: Knows ranks and device.
        data: Has the training rows and the tokenizer.
        ewc: Says how many examples, and which.
        base: The base model, not loaded yet.

    Raises:
        ValueError: Where it is not in the cache and no rank has the whole model, and for a gradient that is not finite.
    """
    base = base.scored_in(trainer, "training" if trainer.precision == "64-true" else "fp32")
    base = base._replace(attention=None if "flash" in str(base.attention) else base.attention)  # FlashAttention has no float32
    encoded, first_token = data.encoded["train"], start_token(data.encoder.tokenizer)
    rows = chosen_rows(len(encoded), ewc.fisher_rows)
    if ewc.fisher_from == "train":
        arrays = [part for row in rows for part in (encoded.tokens[span(encoded, row)], encoded.supervised[span(encoded, row)])]
        about = [np.ascontiguousarray(array).tobytes() for array in arrays]
    else:
        about = [f"{first_token} {ewc.fisher_rows} {LENGTH}".encode()]
    dtype = "float64" if trainer.precision == "64-true" else "float32"
    content = ContentCache(trainer.default_root_dir, "base-fisher", FORMAT, base.weights_hash(trainer), f"{dtype} {base.attention}", ewc.fisher_from, *about)

    def compute() -> Entry:
        if shards_weights(trainer.strategy):
            raise ValueError(
                "EWC's Fisher information is not in the cache, and cannot be computed where every weight is sharded (ZeRO-3, FSDP2); compute it once by one "
                "step under configs/strategy/ddp.yaml or zero2.yaml, `--trainer.max_steps 1`, with a run folder next to this one."
            )
        backbone = base.load(trainer)
        with base.forward_context(trainer):
            if ewc.fisher_from == "train":
                examples = [training_example(encoded, row) for row in rows]
            else:
                examples = sampled_examples(trainer, backbone, first_token, ewc.fisher_rows)
            return Entry(mean_squares(trainer, backbone, examples))

    entry = read_or_compute(trainer, content, compute)
    torch.cuda.empty_cache()  # the base model is gone, and the model to be trained is about to be loaded
    return Fisher(entry.tensors, content.key)


def chosen_rows(num_rows: int, most: int) -> list[int]:
    """The training rows that are used: at most so many, by a fixed random choice."""
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:most]).tolist()


def span(encoded: EncodedExamples, row: int) -> slice:
    """Where the tokens of a row are."""
    return slice(int(encoded.offsets[row]), int(encoded.offsets[row + 1]))


def training_example(encoded: EncodedExamples, row: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels ``[1, T]`` of a training row."""
    batch = encoded[MicroBatch((row,), 0)]
    return batch["input_ids"], batch["labels"]


def sampled_examples(trainer: Trainer, backbone: Backbone, first_token: int, num_sequences: int) -> list[tuple[Tensor, Tensor]]:
    """Tokens and labels ``[1, T]`` of sequences that rank zero samples from the base model. Collective."""
    length = min(LENGTH, getattr(backbone.config, "max_position_embeddings", None) or LENGTH)

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        sizes = [min(TOGETHER, num_sequences - done) for done in range(0, num_sequences, TOGETHER)]
        return torch.cat([sample(backbone.model, first_token, size, length, generator) for size in sizes])

    tokens = on_rank_zero(trainer, draw, "samples from the base model")
    return [(row[None, :-1], row[None, 1:]) for row in tokens]


def mean_squares(trainer: Trainer, backbone: Backbone, examples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The mean over examples of the squared gradient of the summed NLL, on the CPU; each example runs on one rank, by itself. Collective.

    Gradients are squared as they come, weight by weight, so that there is never a whole gradient in memory.
    """
    trained = {name: weight for name, weight in backbone.named_parameters() if weight.requires_grad}
    sums = {name: torch.zeros_like(weight) for name, weight in trained.items()}

    def add_square(total: Tensor) -> Callable[[Tensor], None]:
        def add(weight: Tensor) -> None:
            assert weight.grad is not None
            total.addcmul_(weight.grad, weight.grad)
            weight.grad = None

        return add

    hooks = [weight.register_post_accumulate_grad_hook(add_square(sums[name])) for name, weight in trained.items()]  # a tied weight's comes once
    own = examples[trainer.global_rank :: trainer.world_size]
    device = trainer.strategy.root_device
    with torch.enable_grad():
        for input_ids, labels in track(own, "Fisher information of the base model", show=trainer.is_global_zero, console=Console(stderr=True)):
            backbone(input_ids.to(device), labels.to(device)).nll.sum().backward()
    for hook in hooks:
        hook.remove()
    means = {name: (sum_over_ranks(total) / len(examples)).cpu() for name, total in sums.items()}
    for name, mean in means.items():
        if not mean.isfinite().all():
            raise ValueError(f"The Fisher information of `{name}` is not finite; look at the base model's weights and the rows.")
    return means


def owned_fisher(fisher: Fisher, names: list[str], locate: Callable[[], Mapping[Tensor, list[Part]]]) -> Callable[[Tensor], Tensor]:
    """Gives F of this rank's part of a tensor that the optimizer steps, with its shape and device; read at the first call.

    Args:
        fisher: F of all weights.
        names: The trained parameters' names in the backbone, in the order in which the optimizer got them.
        locate: Where this rank's parts of the parameters lie; DeepSpeed decides it after the optimizer is made.
    """
    locate_once = cache(locate)

    @cache
    def of(weight: Tensor) -> Tensor:
        owned = torch.zeros_like(local(weight.detach()))
        for number, start, end, first in locate_once()[weight]:
            owned.view(-1)[start:end] = fisher.tensors[names[number]].view(-1)[first : first + end - start]
        return owned

    return of
