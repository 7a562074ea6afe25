"""MoFO: AdamW that moves only the weights with the largest momentum."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from lit_talr.modeling.sharded import Part
from lit_talr.training.parts import PartsOptimizer, average, move
from lit_talr.utils.collectives import local, sum_over_ranks
from lit_talr.utils.errors import check_in

INTEGERS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
"""The integers of the same size: numbers that are not negative have the order of their bits."""


class MoFO(PartsOptimizer):
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
        super().__init__(params, lr, betas, eps, weight_decay, {"fraction": fraction})
        shapes = [tuple(getattr(weight, "ds_shape", weight.shape)) for weight in self.parameters]  # whole, also under ZeRO-3
        fractions = [group["fraction"] for group in self.param_groups for _ in group["params"]]
        self.sizes = [max(1, int(share * prod(shape))) if len(shape) > 1 else prod(shape) for share, shape in zip(fractions, shapes, strict=True)]
        self.filtered = [len(shape) > 1 for shape in shapes]

    def change(self, stepped: list[tuple[Tensor, dict[str, Any]]], parts: Mapping[Tensor, list[Part]]) -> None:
        states = [{name: local(value) for name, value in self.state[weight].items()} for weight, _ in stepped]
        for (weight, group), state in zip(stepped, states, strict=True):
            average(state["exp_avg"], state["exp_avg_sq"], local(weight.grad), group["betas"])  # type: ignore[arg-type]
        owned = {
            number: state["exp_avg"].view(-1)[start:end]
            for (weight, _), state in zip(stepped, states, strict=True)
            for number, start, end, _ in parts[weight]
            if self.filtered[number]
        }
        thresholds = self.thresholds(owned)
        for (weight, group), state in zip(stepped, states, strict=True):
            moved = state["exp_avg"].clone()
            for number, start, end, _ in parts[weight]:
                if self.filtered[number]:
                    part = moved.view(-1)[start:end]
                    part.masked_fill_(bits(part) < thresholds[number], 0)
            move(local(weight), moved, state["exp_avg_sq"], state["step"].item(), group)

    def thresholds(self, owned: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
        """The bits of the smallest ``|m|`` that is updated, by the number of the parameter."""
        if not self.sharded:
            return {number: bits(part.abs().kthvalue(part.numel() - self.sizes[number] + 1).values) for number, part in owned.items()}
        like = next(iter(owned.values()), None)
        device = local(self.param_groups[0]["params"][0]).device
        dtype = local(self.param_groups[0]["params"][0]).dtype if like is None else like.dtype
        return dict(enumerate(kth_largest(owned, torch.tensor(self.sizes, device=device), dtype)))


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
