"""The base model's NLL of every training token: computed once, cached by content."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from torch import Tensor

from lit_talr.data.batch_plan import Batching, BatchPlan
from lit_talr.data.encoded import Batch, EncodedExamples
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.families import check_packing
from lit_talr.modeling.strategies import shards_weights
from lit_talr.utils.cache import ContentCache, Entry, read_or_compute
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.progress import track

FORMAT = "3"
"""Part of every key; raise it when the same content would give other numbers."""


class BaseNLL(NamedTuple):
    """The NLL of all supervised tokens of a split, one example after the other."""

    nll: Tensor  # [N] float32, memory-mapped
    starts: np.ndarray  # [n + 1] int64, the index of each example's first token
    key: str  # hash of weights, rows as tokens, precision

    def of_batch(self, batch: Batch, like: Tensor, mask: Tensor) -> Tensor:
        """``[B, T]`` NLLs of a batch's supervised tokens, 0 elsewhere, with the dtype and device of ``like``.

        Looked up by the examples' indices: DeepSpeed would round a float tensor that came with the batch.
        """
        parts = [self.nll[self.starts[index] : self.starts[index + 1]] for index in batch["ids"]]
        return torch.zeros_like(like).masked_scatter(mask, torch.cat([self.nll[:0], *parts]).to(like))


def load_base_nll(trainer: Trainer, encoded: EncodedExamples, batching: Batching, about: str, load: Callable[[Trainer], Backbone]) -> BaseNLL:
    """Reads the base's NLLs of a split from the cache, or computes them in parallel over the ranks. Collective.

    Args:
        trainer: Knows ranks, device and precision.
        encoded: The split.
        batching: How many examples run at once.
        about: What the forward depends on: hash of the base's weights and configuration, precision, attention.
        load: Loads the base model.
    """
    rows = [np.ascontiguousarray(array).data.cast("B") for array in (encoded.offsets, encoded.tokens, encoded.supervised)]
    cache = ContentCache(trainer.default_root_dir, "base-nll", FORMAT, about, *rows)
    entry = read_or_compute(trainer, cache, lambda: Entry({"nll": compute_nll(trainer, encoded, batching, load)}))
    torch.cuda.empty_cache()  # the base model is gone, and the model to be trained is about to be loaded
    return BaseNLL(entry.tensors["nll"], np.concatenate([[0], np.cumsum(encoded.num_supervised)]), cache.key)


def compute_nll(trainer: Trainer, encoded: EncodedExamples, batching: Batching, load: Callable[[Trainer], Backbone]) -> Tensor:
    """``[N]`` float32 on the CPU: a forward over all examples by a model of its own, in evaluation mode, in the precision of training."""
    backbone = load(trainer)
    if batching.packing:
        check_packing(backbone.model.config)

    def forward(batch: Batch) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return backbone(batch["input_ids"], batch["labels"], batch["packing"], batch["supervised"]).nll

    return score_tokens(forward, encoded, np.arange(len(encoded)), batching, trainer, "NLL under the base model").float().cpu()


def score_tokens(
    forward: Callable[[Batch], Tensor],
    encoded: EncodedExamples,
    ids: np.ndarray,
    batching: Batching,
    trainer: Trainer,
    title: str | None = None,
    in_step: bool = False,
) -> Tensor:
    """Scores examples; each runs on one rank, and every rank gets ``[number of supervised tokens]`` NLLs, one example after the other. Collective.

    Where the forward gives several numbers of a token, ``[B, T, C]``, so does this: ``[number of supervised tokens, C]``.

    Args:
        forward: Gives the NLLs ``[B, T]`` of a batch on the device.
        encoded: All examples.
        ids: Indices of those that are scored, in this order.
        batching: How many run at once.
        trainer: Knows ranks and device.
        title: Title of a progress bar, shown if given.
        in_step: Run every micro-batch on every rank, also an empty one, for a forward with collectives.
    """
    num_tokens = encoded.num_supervised[ids]
    starts = np.concatenate([[0], np.cumsum(num_tokens)])
    plan = BatchPlan(encoded.lengths[ids], num_tokens, batching, world_size=trainer.world_size, rank=trainer.global_rank, shuffle=False)
    together = in_step or shards_weights(trainer.strategy)  # then every rank runs every micro-batch, also an empty one
    nll: Tensor | None = None
    micro_batches = track(plan, title or "", show=bool(title) and trainer.is_global_zero, console=Console(stderr=True))
    with torch.no_grad():
        for micro_batch in micro_batches:
            if not (micro_batch.ids or together or nll is None):
                continue
            batch = encoded[micro_batch._replace(ids=tuple(ids[list(micro_batch.ids)].tolist()))]
            mask = batch["labels"] >= 0
            scored = forward(trainer.strategy.batch_to_device(batch))
            nll = scored.new_zeros(int(starts[-1]), *scored.shape[2:]) if nll is None else nll
            positions = [np.arange(starts[number], starts[number + 1]) for number in micro_batch.ids]
            if positions:
                nll[torch.from_numpy(np.concatenate(positions)).to(nll.device)] = scored[mask.to(scored.device)]
    assert nll is not None
    return sum_over_ranks(nll)
