"""Muon for training from random weights; fine-tuning uses torch's own optimizers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lit_talr.utils.errors import check_in

VOCABULARY = 10
"""Ratio of rows to columns above which a matrix counts as an embedding or a head; matrices of layers have a ratio of about eight at most."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, as in torch.optim.Muon."""


class Muon(Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon) on the matrices of the layers, AdamW on embedding, head, norms and biases, at one learning rate.

    A matrix moves along its orthogonalised momentum, scaled to the size of AdamW's steps (arXiv:2502.16982). For the matrices it equals torch.optim.Muon
    with ``match_rms_adamw``, but in float32, since bfloat16 takes twenty times as long on a CPU. It needs whole matrices: one process or DDP.

    Args:
        params: The parameters that are trained.
        lr: Learning rate of both optimizers.
        momentum: Momentum of Muon, in [0, 1).
        betas: Coefficients of AdamW's running averages.

    Raises:
        ValueError: For a momentum out of range, and for a model of matrices alone.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 5e-3, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.95)) -> None:
        check_in("momentum", momentum, "[0, 1)")
        kinds: tuple[list[Tensor], list[Tensor]] = ([], [])
        for parameter in params:
            kinds[parameter.ndim != 2 or parameter.shape[0] > VOCABULARY * parameter.shape[1]].append(parameter)
        matrices, rest = kinds
        if not rest:
            raise ValueError("`Muon` is for whole models, and there are matrices only, such as LoRA's; use AdamW.")
        super().__init__([{"params": matrices}], {"lr": lr, "momentum": momentum})
        self.rest = AdamW(rest, lr=lr, betas=betas, weight_decay=0.0)
        self.param_groups += self.rest.param_groups  # the same object: a schedule sets its rate too

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is not None:
                average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                parameter.add_(direction, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)
        self.rest.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rest.load_state_dict(state_dict["rest"])
        super().load_state_dict({"state": state_dict["state"], "param_groups": state_dict["param_groups"]})
        self.param_groups = [self.param_groups[0], *self.rest.param_groups]


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximates ``U V^T`` of a matrix ``U S V^T`` by Newton-Schulz iterations; singular values end between .7 and 1.2."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
