"""L2 penalty towards the base model's weights, added to any loss."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_talr.losses.base import LossStrategy, LossWrapper, Setting
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.errors import check_in


class L2(LossWrapper):
    """``loss + coefficient * ||theta - theta_0||^2``, theta_0 being the base model's weights, around any loss.

    The penalty never enters the graph. An optimizer hook adds its gradient, ``2 * coefficient * (theta - theta_0)``, to the fp32 weights that this rank's
    optimizer owns, so it works under ZeRO too. That happens after gradient clipping. The anchors theta_0 are one copy of the owned weights; they are part
    of the optimizer's state, and so of every checkpoint.

    Source: unweighted elastic weight consolidation (Kirkpatrick et al., arXiv:1612.00796). The coefficient of the TALR paper is not known. FLOW
    (arXiv:2502.02797) uses 1e-3 for the sum of squares, and its code divides by the number of weights: pass the quotient to match it.

    Use: to bound how far the weights move, whatever the loss; it costs one more copy of the weights.

    Args:
        loss: The loss to regularise, ``Standard`` or any other.
        coefficient: Weight of the sum of squares, at least 0; at 0 training is bitwise that of ``loss``.

    Raises:
        ValueError: For a negative or infinite coefficient; at start-up with an adapter, with weights that are kept in half precision.
    """

    def __init__(self, loss: LossStrategy, coefficient: float = 1e-3) -> None:
        super().__init__(loss)
        check_in("coefficient", coefficient, "[0, inf)")
        self.coefficient = coefficient
        self.sharded = False
        self.scaled = False
        self._squares: Tensor | None = None  # scalar, squared distance of the open step
        self._metrics: dict[str, Tensor] = {}

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if setting.adapter:
            raise ValueError(
                "L2 pulls the weights back to the base model's, and an adapter's are others; leave out `model.adapter`, or use the wrapped loss alone."
            )
        if setting.precision.endswith("-true") and setting.precision.startswith(("bf16", "16")) and not setting.sharded:
            raise ValueError(f"L2 cannot resolve how far weights are from the base model's in `trainer.precision: {setting.precision}`; use `bf16-mixed`.")
        self.sharded = setting.sharded

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        if self.coefficient == 0:
            return
        anchors: dict[Tensor, Tensor] = {}  # from the first pre-step hook to the post-step hook: AdamW initialises only an empty state

        def add_gradient(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = run_closure(args, kwargs)
            squares = []
            for weight in owned_weights(optimizer):
                anchor = optimizer.state[weight].get("anchor")
                if anchor is None:
                    anchors[weight] = weight.detach().clone()
                    continue
                distance = weight.detach() - anchor
                weight.grad.add_(distance, alpha=2 * self.coefficient)  # type: ignore[union-attr]
                distance = distance.to_local() if hasattr(distance, "to_local") else distance  # this rank's shard under FSDP2
                squares.append(torch.linalg.vector_norm(distance, dtype=torch.promote_types(distance.dtype, torch.float32)).square())
            if squares:  # ZeRO-3 steps once for each of its groups of weights
                total = torch.stack(squares).sum()
                self._squares = total if self._squares is None else self._squares + total
            return args, kwargs

        def keep_anchors(optimizer: Optimizer, *_: object) -> None:
            for weight, anchor in anchors.items():
                optimizer.state[weight]["anchor"] = anchor
            anchors.clear()

        optimizer.register_step_pre_hook(add_gradient)
        optimizer.register_step_post_hook(keep_anchors)

    def step_end(self) -> None:
        super().step_end()
        if self._squares is None:
            return
        squares = sum_over_ranks(self._squares) if self.sharded else self._squares
        self._squares = None
        self._metrics = {"l2/distance": squares.sqrt(), "l2/penalty": self.coefficient * squares}

    def metrics(self) -> dict[str, Tensor]:
        """``l2/distance`` (the norm) and ``l2/penalty``, both before the step, and the metrics of the wrapped loss."""
        return {**super().metrics(), **self._metrics}


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
