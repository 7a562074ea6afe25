"""The interface of a loss strategy: per-token numbers in, weights out."""

import inspect
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class TokenStats(NamedTuple):
    """What is known of the tokens of one micro-batch; ``[B, T]`` are its rows and positions.

    Args:
        nll: ``[B, T]`` float32 (float64 for a float64 model), negative log-likelihood in nats; carries gradient; 0 where unsupervised.
        mask: ``[B, T]`` bool, True where supervised.
        sequence_ids: ``[B, T]`` int64, which example a token belongs to, a number in [0, B * T) unique in the micro-batch; ignored where ``mask`` is False.
        entropy: ``[B, T]`` float32, detached, of the model's distribution; only where the strategy ``needs`` it, as those below.
        top_entropy: Entropy of the renormalised twenty most likely tokens, detached.
        base_nll: NLL under the starting model, detached.
        base_kl: KL(starting model || model) of the next token in nats, of the dtype of ``nll``; carries gradient.
    """

    nll: Tensor
    mask: Tensor
    sequence_ids: Tensor
    entropy: Tensor | None = None
    top_entropy: Tensor | None = None
    base_nll: Tensor | None = None
    base_kl: Tensor | None = None

    def detach(self) -> "TokenStats":
        """The same numbers without gradient."""
        return TokenStats._make(field if field is None else field.detach() for field in self)


class Setting(NamedTuple):
    """Of a run: what a strategy may have to refuse."""

    pretrained: bool = True  # it starts from a model that can be asked, not from random weights
    lora: bool = False  # adapters are trained, not the model's own weights
    sharded: bool = False  # an engine splits the optimizer, and keeps fp32 weights for it (ZeRO)
    precision: str = "bf16-mixed"  # the trainer's
    sharded_weights: bool = False  # no rank has the whole model (ZeRO-3, FSDP2)


class LossStrategy(nn.Module):
    """Turns the NLL of every token into its weight. Most strategies write only ``weights``.

    For each micro-batch the module asks for the weights once, shows them to the callbacks, and calls the strategy with them. It divides the sum by the
    number of supervised tokens of the whole optimizer step, over all ranks and micro-batches.

    The docstring of a strategy begins with its formula; a paragraph of it begins with "Source:", another with "Use:". docs/losses.md is made of them.
    Options are kept as attributes under their own names: runs say what they are trained with, and a resumed one must have the same.
    """

    needs: frozenset[str] = frozenset()
    """Optional fields of ``TokenStats`` that the module has to fill in."""
    least_weight: float | None = None
    """The weight below which the strategy lets no token fall, where there is one."""
    batching_invariant: bool = True
    """Whether a step's gradient is the same however the step is split: a weight depends on its token, on its example and on finished steps alone."""

    def weights(self, stats: TokenStats) -> Tensor:
        """Weights ``[B, T]``, of which the module uses the values only; what they hold at unsupervised positions does not matter."""
        raise NotImplementedError

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        """Called once for each micro-batch of training, after ``weights``; keeps what ``step_end`` needs. ``weights`` itself keeps nothing that grows."""

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """The scalar sum over supervised tokens of weight times NLL, not yet divided; carries gradient through the NLL only."""
        return (torch.where(stats.mask, weights.detach(), 0) * stats.nll).sum()

    def check(self, setting: Setting) -> None:
        """Refuse, by name, what the strategy cannot do in this setting; called at start-up on every rank, before anything is loaded.

        Raises:
            ValueError: In one sentence, with the way out.
        """
        if self.needs & {"base_nll", "base_kl"} and not setting.pretrained:
            raise ValueError(
                f"{type(self).__name__} compares with the starting model, and random weights say nothing; "
                "give `model.pretrained`, or a loss that needs no reference, such as TALR."
            )
        if "base_kl" in self.needs and setting.sharded_weights:
            raise ValueError(
                f"{type(self).__name__} runs the starting model beside the one that is trained, which is not supported where every weight is sharded (ZeRO-3, "
                "FSDP2); use configs/strategy/ddp.yaml or zero2.yaml."
            )

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        """Called once before ``fit`` on every rank where the strategy needs ``base_nll``: for what depends on the whole training set.

        Args:
            base_nll: ``[N]`` float32, NLL under the starting model of every supervised token, one example after the other.
            num_tokens: ``[n]`` int64, how many of them each example has.
        """

    def attach(self, optimizer: Optimizer) -> None:
        """Called once with the optimizer that owns the parameters; penalties on parameters register their hooks here."""

    def step_end(self) -> None:
        """Called once after each optimizer step on every rank; collectives live here."""

    def metrics(self) -> dict[str, Tensor]:
        """Scalars of the last optimizer step for the logger, equal on all ranks."""
        return {}

    @property
    def description(self) -> str:
        """The strategies from the outermost in with their options, such as ``L2(coefficient=0.001) around Standard()``."""
        return " around ".join(f"{type(part).__name__}({part.extra_repr()})" for part in self.modules())

    def extra_repr(self) -> str:
        """The options, such as ``level='sample', temperature=None``; not the loss that it may hold."""
        return ", ".join(f"{name}={vars(self)[name]!r}" for name in inspect.signature(type(self)).parameters if name in vars(self))


class LossWrapper(LossStrategy):
    """Is the loss that it holds, until a subclass changes something.

    Args:
        loss: The loss that is held.
    """

    def __init__(self, loss: LossStrategy) -> None:
        super().__init__()
        self.loss = loss
        self.needs = loss.needs
        self.least_weight = loss.least_weight
        self.batching_invariant = loss.batching_invariant

    def weights(self, stats: TokenStats) -> Tensor:
        return self.loss.weights(stats)

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        self.loss.observe(stats, weights)

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        return self.loss(stats, weights)

    def check(self, setting: Setting) -> None:
        self.loss.check(setting)

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        self.loss.prepare(base_nll, num_tokens)

    def attach(self, optimizer: Optimizer) -> None:
        self.loss.attach(optimizer)

    def step_end(self) -> None:
        self.loss.step_end()

    def metrics(self) -> dict[str, Tensor]:
        return self.loss.metrics()


def check_weights(loss: LossStrategy, weights: Tensor, stats: TokenStats) -> Tensor:
    """Refuses weights of another shape than the NLL, which would broadcast to wrong ones; returns them detached.

    Raises:
        ValueError: Naming the strategy.
    """
    if weights.shape != stats.nll.shape:
        raise ValueError(
            f"{type(loss).__name__}.weights returned {list(weights.shape)}; it must return one weight for each token, [B, T] = {list(stats.nll.shape)}."
        )
    return weights.detach()


def sequence_means(values: Tensor, stats: TokenStats) -> Tensor:
    """``[B * T]``: at the number of each sequence the mean of ``values`` ``[B, T]`` over its supervised tokens, NaN elsewhere.

    Of a shape that does not depend on the data, so that no device has to be waited for.
    """
    sequence = torch.where(stats.mask, stats.sequence_ids, 0).flatten()
    mask = stats.mask.flatten().to(values.dtype)
    total = torch.zeros_like(mask).scatter_add_(0, sequence, torch.where(stats.mask, values, 0).flatten())
    count = torch.zeros_like(mask).scatter_add_(0, sequence, mask)
    return total / count


def of_sequence(means: Tensor, stats: TokenStats) -> Tensor:
    """``[B, T]``: to each supervised token the value of its sequence, from ``[B * T]`` as ``sequence_means`` gives it."""
    return means[torch.where(stats.mask, stats.sequence_ids, 0)]
