"""Measures how much of an update is lost where weights are rounded to half precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_talr.utils.weight_files import TensorInfo, model_folder, read_tensor, tensors

CHUNK = 2**22
"""Numbers compared at a time."""


class Rounding:
    """Compares a model's tensors, theta, with those of its base model, theta_0, in float64:

    ``lost = ||(round(theta) - round(theta_0)) - (theta - theta_0)|| / ||theta - theta_0||``, and the share of the weights with ``theta != theta_0`` for
    which ``round(theta) == round(theta_0)``. ``str`` of it puts both in a sentence.

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
        self.moved = self.returned = 0
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

    def add(self, name: str, value: Tensor) -> None:
        """Compares one tensor, as it is before rounding."""
        if not self.base or not value.is_floating_point():
            return
        info = self.base.get(name)
        if info is None or info.shape != tuple(value.shape):
            self.left_out.append(name)
            return
        for tuned, base in zip(value.reshape(-1).split(CHUNK), read_tensor(info).reshape(-1).split(CHUNK), strict=True):
            update = tuned.double() - base.double()
            rounded = tuned.to(self.dtype).double() - base.to(self.dtype).double()
            self.update += float(update.square().sum())
            self.error += float((rounded - update).square().sum())
            self.moved += int(update.count_nonzero())
            self.returned += int(((update != 0) & (rounded == 0)).sum())

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
