"""MoFO: AdamW that moves only the weights with the largest momentum."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_talr.modeling.sharded import Part, parts_of_weights
from lit_talr.utils.collectives import local, sum_over_ranks
from lit_talr.utils.errors import check_in

INTEGERS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
"""The integers of the same size: numbers that are not negative have the order of their bits."""


class MoFO(Optimizer):
    """AdamW in which a matrix's update is ``where(|m| >= t, m, 0) / (sqrt(v) + eps)``, t the k-th largest ``|m|`` of the matrix, k a fraction of its size.

    m and v are AdamW's averages of all gradients, with its bias correction. Norms and biases, which have one dimension, are updated whole, as in the authors'
    code; so are all weights by weight decay. Weights of equal ``|m|`` at the threshold are all updated.

    The threshold is exact where a matrix is split among ranks (ZeRO, FSDP2): it is found bit by bit from counts, 31 small sums over the ranks for float32.
    No number is read by the host. The state is AdamW's, 8 bytes a weight in float32.

    Source: "MoFO: Momentum-Filtered Optimizer for Mitigating Forgetting in LLM Fine-Tuning" (Chen et al., TMLR 2025, arXiv:2407.20999) and the authors' code,
    which recommends a fraction of 0.05 to 0.2; their runs have 0.15.

    Use: to stay closer to the base model without its data, at the same loss and rate.

    Args:
        params: The parameters that are trained.
        lr: Learning rate.
        fraction: Share of each matrix that a step updates, in (0, 1], at least one weight; 1 is AdamW.
        betas: Coefficients of the running averages, in [0, 1).
        eps: Added to the root of v, at least 0.
        weight_decay: Decoupled, of all weights, at least 0.

    Raises:
        ValueError: For a value out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-6,
        fraction: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        check_in("fraction", fraction, "(0, 1]", "1 updates all weights")
        for name, value, interval in (("lr", lr, "[0, inf)"), ("eps", eps, "[0, inf)"), ("weight_decay", weight_decay, "[0, inf)")):
            check_in(name, value, interval)
        for beta in betas:
            check_in("betas", beta, "[0, 1)")
        super().__init__(params, {"lr": lr, "fraction": fraction, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.parameters = [weight for group in self.param_groups for weight in group["params"]]
        shapes = [tuple(getattr(weight, "ds_shape", weight.shape)) for weight in self.parameters]  # whole, also under ZeRO-3
        fractions = [group["fraction"] for group in self.param_groups for _ in group["params"]]
        self.sizes = [max(1, int(share * prod(shape))) if len(shape) > 1 else prod(shape) for share, shape in zip(fractions, shapes, strict=True)]
        self.filtered = [len(shape) > 1 for shape in shapes]
        self.sharded = any(isinstance(weight, DTensor) for weight in self.parameters)
        self.locate: Callable[[], dict[Tensor, list[Part]]] = partial(parts_of_weights, self.parameters)

    def split(self, locate: Callable[[], dict[Tensor, list[Part]]]) -> None:
        """Tells an optimizer whose tensors an engine replaces, and splits among ranks, where each parameter lies in them."""
        self.locate, self.sharded = locate, True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        stepped = [(weight, group) for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        for weight, group in stepped:
            self.average(weight, group["betas"])
        parts = self.locate() if stepped else {}
        owned = {
            number: local(self.state[weight]["exp_avg"]).view(-1)[start:end]
            for weight, _ in stepped
            for number, start, end, _ in parts[weight]
            if self.filtered[number]
        }
        thresholds = self.thresholds(owned)
        for weight, group in stepped:
            moved = local(self.state[weight]["exp_avg"]).clone()
            for number, start, end, _ in parts[weight]:
                if self.filtered[number]:
                    part = moved.view(-1)[start:end]
                    part.masked_fill_(bits(part) < thresholds[number], 0)
            self.move(weight, moved, group)
        return loss

    def average(self, weight: Tensor, betas: tuple[float, float]) -> None:
        """Takes a gradient into the running averages."""
        state = self.state[weight]
        if "exp_avg" not in state:
            state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        gradient = local(weight.grad)  # type: ignore[arg-type]
        state["step"] += 1
        local(state["exp_avg"]).lerp_(gradient, 1 - betas[0])
        local(state["exp_avg_sq"]).mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])

    def thresholds(self, owned: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
        """The bits of the smallest ``|m|`` that is updated, by the number of the parameter."""
        if not self.sharded:
            return {number: bits(part.abs().kthvalue(part.numel() - self.sizes[number] + 1).values) for number, part in owned.items()}
        like = next(iter(owned.values()), None)
        device = local(self.param_groups[0]["params"][0]).device
        dtype = local(self.param_groups[0]["params"][0]).dtype if like is None else like.dtype
        return dict(enumerate(kth_largest(owned, torch.tensor(self.sizes, device=device), dtype)))

    def move(self, weight: Tensor, moved: Tensor, group: Mapping[str, Any]) -> None:
        """Changes a weight along what is left of its momentum."""
        state, (first, second), rate = self.state[weight], group["betas"], float(group["lr"])
        step = state["step"].item()
        local(weight).mul_(1 - rate * group["weight_decay"])
        scale = (local(state["exp_avg_sq"]).sqrt() / sqrt(1 - second**step)).add_(group["eps"])
        local(weight).addcdiv_(moved, scale, value=-rate / (1 - first**step))


def kth_largest(owned: Mapping[int, Tensor], sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of the k-th largest magnitude of each parameter over all ranks; collective.

    Args:
        owned: This rank's elements of some parameters, by their number; an element is owned by one rank.
        sizes: ``[n]`` int64, k of each parameter.
        dtype: Of the elements.

    Returns:
        ``[n]`` int64; arbitrary for parameters that no rank owns elements of.
    """
    numbers = torch.tensor(list(owned), dtype=torch.int64, device=sizes.device)
    found = torch.zeros_like(sizes)
    for bit in reversed(range(8 * dtype.itemsize - 1)):  # the largest threshold that at least k elements reach
        candidates = found | (1 << bit)
        counts = torch.zeros_like(sizes)
        if owned:
            counts[numbers] = torch.stack([(bits(part) >= candidates[number]).sum() for number, part in owned.items()])
        found = torch.where(sum_over_ranks(counts) >= sizes, candidates, found)
    return found


def bits(values: Tensor) -> Tensor:
    """The magnitudes as integers of the same order."""
    return values.abs().view(INTEGERS[values.dtype])
