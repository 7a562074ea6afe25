"""Micro-batches without examples: every rank has the same number of micro-batches, so some are empty."""

from lightning.pytorch import Trainer
from torch import Tensor, float32, nn, promote_types, zeros

from lit_talr.data.encoded import Batch
from lit_talr.losses.base import TokenStats
from lit_talr.modeling.strategies import needs_every_forward


def can_skip(batch: Batch, batch_idx: int, trainer: Trainer) -> bool:
    """Whether the forward pass can be skipped: the batch is empty, does not end the step, and no engine waits for it."""
    ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return not batch["ids"] and not ends_step and not needs_every_forward(trainer.strategy)


def empty_stats(batch: Batch, module: nn.Module, needs: frozenset[str]) -> TokenStats:
    """Statistics of a batch without supervised tokens, whose gradient is exactly zero.

    Args:
        batch: Has no examples.
        module: Its smallest trained weight carries the gradient.
        needs: The optional fields that the loss reads.
    """
    weight = min((weight for weight in module.parameters() if weight.requires_grad), key=Tensor.numel)
    nll = zeros(batch["labels"].shape, dtype=promote_types(weight.dtype, float32), device=weight.device) + weight.sum() * 0
    optional = [nll.detach() if name in needs else None for name in ("entropy", "top_entropy", "base_nll", "base_kl", "masked_kl")]
    return TokenStats(nll, batch["labels"].new_zeros(nll.shape).bool(), batch["sequence_ids"], *optional)
