"""AdamW that knows which parameter each element belongs to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_talr.modeling.sharded import Part, parts_of_weights
from lit_talr.utils.collectives import local
from lit_talr.utils.errors import check_in


class PartsOptimizer(Optimizer):
    """An AdamW whose subclasses treat parameters, or their elements, differently, also where an engine puts parts of several into one tensor.

    The state is AdamW's, 8 bytes a weight in float32.

    Args:
        params: The parameters that are trained.
        lr: Learning rate.
        betas: Coefficients of the running averages, in [0, 1).
        eps: Added to the root of v, at least 0.
        weight_decay: Decoupled, at least 0.
        options: The subclass's own.

    Attributes:
        parameters: All of them, in their order; a part's number is an index into it.
        names: Their names, once they are told.
        locate: Where this rank's parts lie in the tensors that are stepped.
        sharded: Whether parameters are split among ranks.

    Raises:
        ValueError: For a value out of range.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float, weight_decay: float, options: Mapping[str, float | None]
    ) -> None:
        for name, value, interval in (("lr", lr, "[0, inf)"), ("eps", eps, "[0, inf)"), ("weight_decay", weight_decay, "[0, inf)")):
            check_in(name, value, interval)
        for beta in betas:
            check_in("betas", beta, "[0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **options})
        self.parameters: list[Tensor] = [weight for group in self.param_groups for weight in group["params"]]
        self.names: Sequence[str] = [name for group in self.param_groups for name in group.get("param_names", ())]
        self.sharded = any(isinstance(weight, DTensor) for weight in self.parameters)
        self.locate: Callable[[], dict[Tensor, list[Part]]] = partial(parts_of_weights, self.parameters)

    def name_parameters(self, names: Sequence[str]) -> None:
        """Tells the parameters' names."""
        self.names = names

    def split(self, locate: Callable[[], dict[Tensor, list[Part]]]) -> None:
        """Tells where the parameters lie in the tensors by which an engine replaces them, and which it splits among ranks."""
        self.locate, self.sharded = locate, True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        stepped = [(weight, group) for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        for weight, _ in stepped:
            state = self.state[weight]
            if "exp_avg" not in state:
                state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            state["step"] += 1
        self.change(stepped, self.locate() if stepped else {})
        return loss

    def change(self, stepped: list[tuple[Tensor, dict[str, Any]]], parts: Mapping[Tensor, list[Part]]) -> None:
        """Takes the gradients into the state, and changes the weights.

        Args:
            stepped: Tensors that have a gradient, with their groups; their state has this step's number.
            parts: The parts in each of them.
        """
        raise NotImplementedError

    def move_part(self, weight: Tensor, part: Part, step: float, group: Mapping[str, Any]) -> None:
        """Takes AdamW's step of this number in one part of a tensor; the rest of it stays."""
        assert weight.grad is not None
        state = self.state[weight]
        whole = [local(tensor).view(-1) for tensor in (weight, state["exp_avg"], state["exp_avg_sq"], weight.grad)]
        own, first, second, gradient = (tensor[part.start : part.end] for tensor in whole)
        average(first, second, gradient, group["betas"])
        move(own, first, second, step, group)


def average(first: Tensor, second: Tensor, gradient: Tensor, betas: tuple[float, float]) -> None:
    """Takes a gradient into the running averages of it and of its square."""
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])


def move(weight: Tensor, moved: Tensor, second: Tensor, step: float, group: Mapping[str, Any]) -> None:
    """Changes a weight along a momentum, after AdamW's step of this number."""
    betas, rate = group["betas"], float(group["lr"])
    weight.mul_(1 - rate * group["weight_decay"])
    scale = (second.sqrt() / sqrt(1 - betas[1] ** step)).add_(group["eps"])
    weight.addcdiv_(moved, scale, value=-rate / (1 - betas[0] ** step))
