"""How much of an update is lost where weights are rounded to half precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_talr.utils.weight_files import TensorInfo, model_folder, read_tensor, tensors

PIECE = 2**22
"""Numbers that are compared at a time."""


class Rounding:
    """Sums over a model's tensors, theta, beside those it started from, theta_0, in float64:

    ``lost = ||(round(theta) - round(theta_0)) - (theta - theta_0)|| / ||theta - theta_0||``, and the share of the weights with ``theta != theta_0`` for
    which ``round(theta) == round(theta_0)``. ``str`` of it says both in a sentence.

    Args:
        dtype: What is rounded to.
        start: The tensors of the starting model, by the names that ``add`` is given.
        why_not: Why there are none.
    """

    def __init__(self, dtype: torch.dtype, start: Mapping[str, TensorInfo], why_not: str = "") -> None:
        self.dtype = dtype
        self.start = start
        self.why_not = why_not
        self.update = self.error = 0.0  # sums of squares
        self.moved = self.returned = 0
        self.left_out: list[str] = []

    @classmethod
    def of(cls, dtype: torch.dtype, pretrained: str | None, revision: str | None) -> "Rounding | None":
        """To the starting model, a folder or hub name; None for a dtype in which nothing is lost."""
        if dtype.itemsize > 2:
            return None
        if pretrained is None:
            return cls(dtype, {}, "the run began with random weights, so there is nothing to compare with")
        try:
            return cls(dtype, tensors(model_folder(pretrained, revision)))
        except (ValueError, OSError) as error:  # which must not cost the export
            return cls(dtype, {}, f"the starting model is not there to compare with: {str(error).rstrip('.')}")

    def add(self, name: str, value: Tensor) -> None:
        if not self.start or not value.is_floating_point():
            return
        info = self.start.get(name)
        if info is None or info.shape != tuple(value.shape):
            self.left_out.append(name)
            return
        for after, before in zip(value.reshape(-1).split(PIECE), read_tensor(info).reshape(-1).split(PIECE), strict=True):
            update = after.double() - before.double()
            kept = after.to(self.dtype).double() - before.to(self.dtype).double()
            self.update += float(update.square().sum())
            self.error += float((kept - update).square().sum())
            self.moved += int(update.count_nonzero())
            self.returned += int(((update != 0) & (kept == 0)).sum())

    @property
    def lost(self) -> float:
        return (self.error / self.update) ** 0.5

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        if self.why_not or not self.moved:
            return f"What {name} loses of the update is not known: {self.why_not or 'no weight differs from the starting model'}."
        # Weights that cross a boundary of rounding jump by more than they were moved, which at small rates outweighs the update.
        part = f"{self.lost:.1%} of the update by its norm" if self.lost < 1 else f"the update, its rounding being {self.lost:.1f} times as large by its norm"
        text = (
            f"{name} loses {part}, and {self.returned / self.moved:.1%} of the {self.moved:,} weights that moved "
            "are back where they started; float32 keeps all of it"
        )
        return f"{text} ({len(self.left_out)} tensors that the starting model has not are left out)." if self.left_out else f"{text}."
