"""Penalties that pull the weights back to the base model's, added to any loss."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_talr.losses.base import LossStrategy, LossWrapper, Setting
from lit_talr.utils.collectives import local, sum_over_ranks
from lit_talr.utils.errors import check_in

SLICE = 2**22
"""Elements that the penalty is computed of at once."""


class Anchored(LossWrapper):
    """``loss + strength / 2 * sum of s * d^2``, ``d = theta - theta_0``; subclasses give the strength and the scale s of each weight.

    The penalty never enters the graph. An optimizer hook adds its gradient, ``strength * s * d``, to the fp32 weights that this rank's optimizer owns, so it
    works under ZeRO too. That happens after gradient clipping. The anchors theta_0 are one copy of the owned weights; they are part of the optimizer's state,
    and so of every checkpoint.

    Args:
        loss: The wrapped loss.
        coefficient: At least 0; at 0 training is bitwise that of ``loss``.
    """

    def __init__(self, loss: LossStrategy, coefficient: float) -> None:
        super().__init__(loss)
        check_in("coefficient", coefficient, "[0, inf)")
        self.coefficient = coefficient
        self.sharded = False
        self._sums: Tensor | None = None  # [2] of the open step: the sums of d^2 and of s * d^2
        self._metrics: dict[str, Tensor] = {}

    @property
    def strength(self) -> float:
        """The factor of the gradient."""
        return self.coefficient

    def scale(self, weight: Tensor) -> Tensor | None:
        """s of this rank's part of a tensor that the optimizer steps, with the part's shape; None is 1."""
        return None

    def check(self, setting: Setting) -> None:
        super().check(setting)
        name = type(self).__name__
        if setting.adapter:
            raise ValueError(
                f"{name} pulls the weights back to the base model's, and an adapter's are others; leave out `model.adapter`, or use the wrapped loss alone."
            )
        if setting.precision.endswith("-true") and setting.precision.startswith(("bf16", "16")) and not setting.sharded:
            raise ValueError(f"{name} cannot resolve how far weights are from the base model's in `trainer.precision: {setting.precision}`; use `bf16-mixed`.")
        self.sharded = setting.sharded

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        if self.coefficient == 0:
            return
        anchors: dict[Tensor, Tensor] = {}  # from the first pre-step hook to the post-step hook: AdamW initialises only an empty state

        @torch.no_grad()
        def add_gradient(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = run_closure(args, kwargs)
            for weight in owned_weights(optimizer):
                anchor = optimizer.state[weight].get("anchor")
                if anchor is None:
                    anchors[weight] = weight.detach().clone()
                    continue
                sums = add_pull(local(weight), local(anchor), self.scale(weight), local(weight.grad), self.strength)  # type: ignore[arg-type]
                self._sums = sums if self._sums is None else self._sums + sums  # ZeRO-3 steps once for each of its groups of weights
            return args, kwargs

        def keep_anchors(optimizer: Optimizer, *_: object) -> None:
            for weight, anchor in anchors.items():
                optimizer.state[weight]["anchor"] = anchor
            anchors.clear()

        optimizer.register_step_pre_hook(add_gradient)
        optimizer.register_step_post_hook(keep_anchors)

    def step_end(self) -> None:
        super().step_end()
        if self._sums is None:
            return
        squares, scaled = sum_over_ranks(self._sums) if self.sharded else self._sums
        self._sums = None
        name = type(self).__name__.lower()
        self._metrics = {f"{name}/distance": squares.sqrt(), f"{name}/penalty": self.strength / 2 * scaled}

    def metrics(self) -> dict[str, Tensor]:
        """The distance (norm of d) and the penalty, both before the step, and the metrics of the wrapped loss."""
        return {**super().metrics(), **self._metrics}


def add_pull(weight: Tensor, anchor: Tensor, scale: Tensor | None, gradient: Tensor, strength: float) -> Tensor:
    """Adds ``strength * scale * d`` to the gradient in place, and returns the sums of d^2 and ``scale * d^2``, ``[2]`` in at least float32.

    Slice by slice: under ZeRO one tensor holds all that a rank owns.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    sums = torch.zeros(2, dtype=dtype, device=weight.device)
    rows = max(1, SLICE // max(1, weight[:1].numel()))
    scales = [None] * len(weight) if scale is None else scale.split(rows)
    for part, origin, factor, slope in zip(weight.split(rows), anchor.split(rows), scales, gradient.split(rows), strict=False):
        distance = part - origin
        pulled = distance if factor is None else factor * distance
        slope.add_(pulled, alpha=strength)
        sums += torch.stack([distance.square().sum(dtype=dtype), (pulled * distance).sum(dtype=dtype)])
    return sums


def run_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Runs the closure in the arguments of ``Optimizer.step``: its backward would otherwise come after our gradient, and overwrite it."""
    optimizer, *positional = args
    closure = positional[0] if positional else kwargs.get("closure")
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    return (optimizer,), {"closure": lambda: loss}


def owned_weights(optimizer: Optimizer) -> list[Tensor]:
    """The weights that the next step changes."""
    return [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
