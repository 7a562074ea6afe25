"""The interface of a loss strategy: per-token numbers in, weights out."""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class TokenStats(NamedTuple):
    """What is known of the tokens of one micro-batch; ``[B, T]`` are its rows and positions.

    Args:
        nll: ``[B, T]`` float32 (float64 for a float64 model), negative log-likelihood in nats; carries gradient; 0 where unsupervised.
        mask: ``[B, T]`` bool, True where supervised.
        sequence: ``[B, T]`` int64, which example a token belongs to, a number in [0, B * T) unique in the micro-batch; ignored where ``mask`` is False.
        entropy: ``[B, T]`` float32, detached, of the model's distribution; only where the strategy ``needs`` it, as the three below.
        top_entropy: Entropy of the renormalised twenty most likely tokens, detached.
        reference_nll: NLL under the starting model, detached.
        reference_kl: KL divergence to the starting model; carries gradient.
    """

    nll: Tensor
    mask: Tensor
    sequence: Tensor
    entropy: Tensor | None = None
    top_entropy: Tensor | None = None
    reference_nll: Tensor | None = None
    reference_kl: Tensor | None = None

    def detach(self) -> "TokenStats":
        """The same numbers without gradient."""
        return TokenStats._make(field if field is None else field.detach() for field in self)


class LossStrategy(nn.Module):
    """Turns the NLL of every token into its weight. Most strategies write only ``weights``.

    For each micro-batch the module asks for the weights once, shows them to the callbacks, and calls the strategy with them. It divides the sum by the
    number of supervised tokens of the whole optimizer step, over all ranks and micro-batches.
    """

    needs: frozenset[str] = frozenset()
    """Optional fields of ``TokenStats`` that the module has to fill in."""
    least_weight: float | None = None
    """The weight below which the strategy lets no token fall, where there is one."""

    def weights(self, stats: TokenStats) -> Tensor:
        """Weights ``[B, T]``, of which the module uses the values only; what they hold at unsupervised positions does not matter."""
        raise NotImplementedError

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """The scalar sum over supervised tokens of weight times NLL, not yet divided; carries gradient through the NLL only."""
        return (weights.detach() * stats.nll * stats.mask).sum()

    def check(self, trainer: "Trainer") -> None:
        """Refuse, by name, what the strategy cannot do under this trainer; called at start-up on every rank.

        Raises:
            ValueError: In one sentence, with the way out.
        """

    def attach(self, optimizer: Optimizer) -> None:
        """Called once with the optimizer that owns the parameters; penalties on parameters register their hooks here."""

    def step_end(self) -> None:
        """Called once after each optimizer step on every rank; collectives live here."""

    def metrics(self) -> dict[str, Tensor]:
        """Scalars of the last optimizer step for the logger, equal on all ranks."""
        return {}


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of equally shaped tensors over all ranks; the tensor itself in a single process."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def gather_over_ranks(values: Tensor) -> Tensor:
    """One-dimensional tensors of any lengths from all ranks, one after the other; the tensor itself in a single process."""
    if dist.is_available() and dist.is_initialized():
        return torch.cat(gather_all_tensors(values))
    return values
