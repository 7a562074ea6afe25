"""The interface of a loss strategy: per-token numbers in, weights out."""

import inspect
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

RUNNING_BASE = frozenset({"base_kl", "masked_kl"})
"""The fields of ``TokenStats`` for which the base model runs beside the trained one."""


class TokenStats(NamedTuple):
    """Per-token numbers of one micro-batch; ``[B, T]`` are its rows and positions.

    Args:
        nll: ``[B, T]`` float32 (float64 for a float64 model), negative log-likelihood in nats; carries gradient; 0 where unsupervised.
        mask: ``[B, T]`` bool, True where supervised.
        sequence_ids: ``[B, T]`` int64 in [0, B * T), the example that a token belongs to, unique in the micro-batch; ignored outside the mask.
        entropy: ``[B, T]`` float32, entropy of the model's distribution in nats, detached; None, like those below, unless the strategy ``needs`` it.
        top_entropy: ``[B, T]`` the same of the twenty most likely tokens, renormalised.
        base_nll: ``[B, T]`` NLL under the base model, detached.
        base_kl: ``[B, T]`` KL(base || model) of the next token in nats, with the dtype of ``nll``; carries gradient.
        masked_kl: ``[B, T]`` the same without the label: both distributions are renormalised over all other tokens; carries gradient.
        data_weights: ``[B, T]`` weights of the data, above 0 where supervised, which multiply those of any strategy afterwards; None where all are 1.
    """

    nll: Tensor
    mask: Tensor
    sequence_ids: Tensor
    entropy: Tensor | None = None
    top_entropy: Tensor | None = None
    base_nll: Tensor | None = None
    base_kl: Tensor | None = None
    masked_kl: Tensor | None = None
    data_weights: Tensor | None = None

    def detach(self) -> "TokenStats":
        """The same numbers without gradient."""
        return TokenStats._make(field if field is None else field.detach() for field in self)


class Setting(NamedTuple):
    """The properties of a run that a strategy may have to refuse."""

    pretrained: bool = True  # training starts from a base model, not from random weights
    adapter: bool = False  # adapters are trained, not the model's own weights
    sharded: bool = False  # the optimizer's state is split among ranks (ZeRO, FSDP2)
    precision: str = "bf16-mixed"  # the trainer's
    sharded_weights: bool = False  # no rank has the whole model (ZeRO-3, FSDP2)


class LossStrategy(nn.Module):
    """Turns the NLL of every token into its weight. Most strategies write only ``weights``.

    For each micro-batch the module calls ``weights`` once, then ``observe``, then the strategy itself with the weights. It divides the sum by the number of
    supervised tokens of the whole optimizer step, over all ranks and micro-batches.

    The docstring of a shipped strategy begins with its formula. One of its paragraphs begins with "Source:", another with "Use:"; docs/remedies.md is made
    of them.
    Options are attributes under their own names: runs record them, and a resumed run must have the same.
    """

    needs: frozenset[str] = frozenset()
    """Optional fields of ``TokenStats`` that the module must compute."""
    least_weight: float | None = None
    """The least weight that the strategy gives, where there is one; token statistics count the tokens at it."""
    batching_invariant: bool = True
    """Whether a step's gradient is the same however the step is split: a weight depends on its token, its example and finished steps only."""

    def weights(self, stats: TokenStats) -> Tensor:
        """Returns weights ``[B, T]``. Only their values are used; values outside the mask do not matter. Keeps nothing that grows from call to call."""
        raise NotImplementedError

    def observe(self, stats: TokenStats, weights: Tensor) -> None:
        """Collects what ``step_end`` needs; called once for each micro-batch of training, with the weights masked and detached."""

    def forward(self, stats: TokenStats, weights: Tensor) -> Tensor:
        """Returns the scalar sum of weight times NLL over supervised tokens, not yet divided. Weights carry no gradient; added terms may."""
        return (torch.where(stats.mask, weights.detach(), 0) * stats.nll).sum()

    def check(self, setting: Setting) -> None:
        """Refuses a setting that the strategy does not support; called at start-up on every rank, before weights are loaded.

        Raises:
            ValueError: In one sentence, with the way out.
        """
        if self.needs & {"base_nll", *RUNNING_BASE} and not setting.pretrained:
            raise ValueError(
                f"{type(self).__name__} compares with the base model, and random weights say nothing; "
                "give `model.pretrained`, or a loss that needs no base model, such as TALR."
            )
        if self.needs & RUNNING_BASE and setting.sharded_weights:
            raise ValueError(
                f"{type(self).__name__} runs the base model next to the trained one, which is not supported where every weight is sharded (ZeRO-3, FSDP2); "
                "use configs/strategy/ddp.yaml or zero2.yaml."
            )

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        """Computes statistics of the whole training set; called once before ``fit`` on every rank, where the strategy needs ``base_nll``.

        Args:
            base_nll: ``[N]`` float32, NLL of every supervised token under the base model, one example after the other.
            num_tokens: ``[n]`` int64, the number of supervised tokens of each example.
        """

    def attach(self, optimizer: Optimizer) -> None:
        """Registers hooks of penalties on parameters; called once with the optimizer that owns them."""

    def step_end(self) -> None:
        """Ends an optimizer step; called once on every rank. Collectives belong here."""

    def metrics(self) -> dict[str, Tensor]:
        """Returns scalars of the last optimizer step for the logger, equal on all ranks."""
        return {}

    @property
    def description(self) -> str:
        """The strategies, outermost first, each with its options, such as ``L2(coefficient=0.001) around Standard()``."""
        return " around ".join(f"{type(part).__name__}({part.extra_repr()})" for part in self.modules())

    def extra_repr(self) -> str:
        """The options, such as ``level='sample', temperature=None``, without a wrapped loss."""
        return ", ".join(f"{name}={vars(self)[name]!r}" for name in inspect.signature(type(self)).parameters if name in vars(self))


class LossWrapper(LossStrategy):
    """Wraps a loss and delegates to it; subclasses override what they change.

    Args:
        loss: The wrapped loss.
    """

    def __init__(self, loss: LossStrategy) -> None:
        super().__init__()
        self.loss = loss
        self.needs = type(self).needs | loss.needs
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
        super().check(setting)

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        self.loss.prepare(base_nll, num_tokens)

    def attach(self, optimizer: Optimizer) -> None:
        self.loss.attach(optimizer)

    def step_end(self) -> None:
        self.loss.step_end()

    def metrics(self) -> dict[str, Tensor]:
        return self.loss.metrics()


def check_loss(loss: LossStrategy) -> None:
    """Refuses what is not a strategy, and options that are not attributes of their own name, which runs could not record.

    Raises:
        ValueError: Naming the strategy and the option.
    """
    if not isinstance(loss, LossStrategy):
        raise ValueError(f"`loss` must be a LossStrategy such as `TALR()`, got {loss!r}.")
    for part in filter(lambda part: isinstance(part, LossStrategy), loss.modules()):
        for name, option in inspect.signature(type(part)).parameters.items():
            if option.kind not in (option.VAR_POSITIONAL, option.VAR_KEYWORD) and not hasattr(part, name):
                raise ValueError(f"{type(part).__name__} must store its option `{name}` as `self.{name}`, so that runs can record it.")
        if not isinstance(part.needs, frozenset | set):
            raise ValueError(f"{type(part).__name__}.needs must be a set such as `frozenset({{'entropy'}})`, got {part.needs!r}.")


def token_weights(loss: LossStrategy, stats: TokenStats) -> Tensor:
    """Computes the factor of each token's NLL, ``[B, T]``: the loss's weight times that of the data, 0 where unsupervised; detached.

    Raises:
        ValueError: For weights of another shape than the NLL, which would broadcast to wrong ones, naming the strategy.
    """
    weights = loss.weights(stats)
    if not isinstance(weights, Tensor) or weights.shape != stats.nll.shape:
        returned = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"{type(loss).__name__}.weights returned {returned}; it must return one weight for each token, [B, T] = {list(stats.nll.shape)}.")
    weights = torch.where(stats.mask, weights.detach(), 0)
    return weights if stats.data_weights is None else weights * stats.data_weights


def measured_weights(loss: LossStrategy, stats: TokenStats) -> Tensor:
    """Computes the masked weights of tokens that are not trained on. Attributes that ``weights`` sets, such as TALR's median for the log, are put back."""
    before = [(part, dict(vars(part))) for part in loss.modules()]
    try:
        return token_weights(loss, stats)
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)


def sequence_means(values: Tensor, stats: TokenStats) -> Tensor:
    """Averages ``values`` ``[B, T]`` over the supervised tokens of each sequence; returns ``[B * T]``, indexed by sequence id, NaN where there is none.

    The shape does not depend on the data, which would force a device synchronization.
    """
    ids = torch.where(stats.mask, stats.sequence_ids, 0).flatten()
    mask = stats.mask.flatten().to(values.dtype)
    total = torch.zeros_like(mask).scatter_add_(0, ids, torch.where(stats.mask, values, 0).flatten())
    count = torch.zeros_like(mask).scatter_add_(0, ids, mask)
    return total / count


def of_sequence(means: Tensor, stats: TokenStats) -> Tensor:
    """Gives each supervised token ``[B, T]`` the value of its sequence, from ``[B * T]`` as ``sequence_means`` returns it."""
    return means[torch.where(stats.mask, stats.sequence_ids, 0)]
