"""Where the examples of a packed row lie."""

from typing import NamedTuple

from torch import Tensor


class Packing(NamedTuple):
    """Of a row ``[1, T]`` without padding."""

    position_ids: Tensor  # [1, T] int64, from 0 in each example
    boundaries: Tensor  # [E + 1] int32, the first place of each example, and T
    longest: int  # tokens of the longest example
