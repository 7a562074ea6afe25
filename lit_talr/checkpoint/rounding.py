"""Measures how much of an update is lost, and how much is visible, where weights are rounded to half precision."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.weight_files import TensorInfo, model_folder, read_tensor, tensors

CHUNK = 2**22
"""Numbers compared at a time."""
PIECES, PIECE = 256, 64
"""Number and length of the pieces that are read of a larger tensor."""


class Rounding:
    """Compares a model's tensors, theta, with those of its base model, theta_0, in float64:

    ``lost = ||(round(theta) - round(theta_0)) - (theta - theta_0)|| / ||theta - theta_0||``, and the share of the weights with ``theta != theta_0`` for
    which ``round(theta) == round(theta_0)``. ``str`` of it puts both in a sentence. The share of the update that its rounding keeps, along the update, is

    ``visible = <round(theta) - round(theta_0), theta - theta_0> / ||theta - theta_0||^2``.

    It is 0 where every weight rounds back to where it started. Where theta_0 is off the grid of the rounded numbers, weights cross a boundary at random in
    proportion to how far they move. So there it is 1 on average, whatever the noise, which ``lost`` tells.

    Args:
        dtype: The dtype after rounding.
        base: The tensors of the base model, by the names that ``add`` is given.
        why_not: Why there are none.
    """

    def __init__(self, dtype: torch.dtype, base: Mapping[str, TensorInfo], why_not: str = "") -> None:
        self.dtype = dtype
        self.base = base
        self.why_not = why_not
        self.update = self.error = 0.0  # sums of squares
        self.inner = 0.0  # product of the rounded update with the update
        self.moved = self.returned = self.compared = self.off_grid = 0  # numbers of weights
        self.left_out: list[str] = []

    @classmethod
    def of(cls, dtype: torch.dtype, pretrained: str | None, revision: str | None) -> "Rounding | None":
        """Compares with a base model, a folder or hub name; None for a dtype in which nothing is lost."""
        if dtype.itemsize > 2:
            return None
        if pretrained is None:
            return cls(dtype, {}, "the run began with random weights, so there is nothing to compare with")
        try:
            return cls(dtype, tensors(model_folder(pretrained, revision)))
        except (ValueError, OSError) as error:  # which must not cost the export
            return cls(dtype, {}, f"the base model is not there to compare with: {str(error).rstrip('.')}")

    def add(self, name: str, value: Tensor, rank: int = 0, num_ranks: int = 1) -> None:
        """Compares one tensor, as it is before rounding, or a rank's share of it."""
        if not self.base or not value.is_floating_point():
            return
        info = self.base.get(name)
        if info is None or info.shape != tuple(value.shape):
            self.left_out.append(name)
            return
        first, last = (value.numel() * number // num_ranks for number in (rank, rank + 1))
        parts = (tensor.reshape(-1)[first:last].split(CHUNK) for tensor in (value, read_tensor(info)))
        for tuned, base in zip(*parts, strict=True):
            self.compare(tuned.cpu(), base)

    def compare(self, tuned: Tensor, base: Tensor) -> None:
        """Adds some weights to the sums."""
        rounded_base = base.to(self.dtype).double()
        update = tuned.double() - base.double()
        rounded = tuned.to(self.dtype).double() - rounded_base
        self.update += float(update.square().sum())
        self.error += float((rounded - update).square().sum())
        self.inner += float((rounded * update).sum())
        self.moved += int(update.count_nonzero())
        self.returned += int(((update != 0) & (rounded == 0)).sum())
        self.compared += update.numel()
        self.off_grid += int((rounded_base != base).sum())

    def add_ranks(self, device: torch.device) -> None:
        """Adds the sums of all ranks, each of which compared its share. Collective."""
        names = ("update", "error", "inner", "moved", "returned", "compared", "off_grid")
        sums = sum_over_ranks(torch.tensor([getattr(self, name) for name in names], dtype=torch.float64, device=device))
        for name, value in zip(names, sums.tolist(), strict=True):
            setattr(self, name, type(getattr(self, name))(value))

    @property
    def visible(self) -> float:
        """The share of the update that is left after rounding, along the update."""
        return self.inner / self.update

    @property
    def lost(self) -> float:
        """The norm of the rounding error over that of the update."""
        return (self.error / self.update) ** 0.5

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        if self.why_not or not self.moved:
            return f"How much of the update {name} loses is not known: {self.why_not or 'no weight differs from the base model'}."
        # Weights that cross a boundary of rounding jump further than they moved, which at small rates outweighs the update.
        part = f"{self.lost:.1%} of the update by its norm" if self.lost < 1 else f"the update, its rounding being {self.lost:.1f} times as large by its norm"
        left_out = f" ({len(self.left_out)} tensors that the base model does not have are left out)" if self.left_out else ""
        return (
            f"{name} loses {part}, and {self.returned / self.moved:.1%} of the {self.moved:,} weights that moved "
            f"are back where they started; float32 keeps all of it{left_out}."
        )


def median_distance(dtype: torch.dtype, base: Iterable[TensorInfo]) -> float:
    """By how much half of a model's weights must at least move to round to another number: the median distance to a boundary of rounding.

    That is half the spacing of the rounded numbers, minus how far the weight is from its own. A sample of each tensor stands for the whole tensor.
    """
    distances, shares = [], []
    for info in base:
        values = sample(read_tensor(info))
        distances.append(boundary_distance(values, dtype))
        shares.append(torch.full_like(distances[-1], torch.Size(info.shape).numel() / values.numel()))
    distance, order = torch.cat(distances).sort()
    below = torch.cat(shares)[order].cumsum(0)
    return float(distance[torch.searchsorted(below, below[-1] / 2)])


def sample(value: Tensor) -> Tensor:
    """Some weights of a tensor, evenly spaced; neighbours lie on the same page of a mapped file."""
    flat = value.reshape(-1)
    if flat.numel() <= PIECES * PIECE:
        return flat
    pieces = flat[: flat.numel() // PIECE * PIECE].view(-1, PIECE)
    return pieces[torch.linspace(0, len(pieces) - 1, PIECES).long()].reshape(-1)


def boundary_distance(values: Tensor, dtype: torch.dtype) -> Tensor:
    """How far each value is from the nearest boundary between numbers of ``dtype``, in float64. (Downward from a power of two it is half of that.)"""
    exact, rounded, limits = values.double(), values.to(dtype).double(), torch.finfo(dtype)
    _, exponent = torch.frexp(torch.where(rounded == 0, limits.tiny, rounded))
    spacing = torch.ldexp(torch.full_like(rounded, limits.eps), exponent - 1).clamp_min(limits.tiny * limits.eps)
    return spacing / 2 - (exact - rounded).abs()
