"""How a domain's examples and general examples share an epoch: by their supervised tokens."""

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """A domain's own examples, followed by general ones, a part of which is in every epoch."""

    num_own: int  # all of them are in every epoch
    share: float  # the general examples' share of an epoch's supervised tokens, in (0, 1)

    def num_general(self, num_supervised: np.ndarray) -> int:
        """Number of general examples of every epoch, at least 1; if it exceeds their total, some occur several times."""
        own, general = num_supervised[: self.num_own], num_supervised[self.num_own :]
        return max(1, round(own.sum() * self.share / (1 - self.share) / general.mean()))

    def num_examples(self, num_supervised: np.ndarray) -> int:
        """Number of examples of every epoch."""
        return self.num_own + self.num_general(num_supervised)

    def order(self, num_supervised: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The indices of an epoch's examples in order; every stretch has about ``share`` of its supervised tokens from general examples.

        General examples are drawn evenly over their lengths: sorted by length into as many strata as are needed, with one drawn from each. If more are needed
        than there are, all of them come first. So the share varies between epochs only by the draws inside the strata.
        """
        draw = np.random.Generator(np.random.PCG64([seed, epoch]))
        own, general = draw.permutation(self.num_own), np.arange(self.num_own, len(num_supervised))
        copies, rest = divmod(self.num_general(num_supervised), len(general))
        by_length = general[np.argsort(num_supervised[general], kind="stable")]
        strata = np.array_split(by_length, rest) if rest else []
        drawn = np.concatenate([*[general] * copies, np.array([draw.choice(stratum) for stratum in strata], dtype=np.int64)])
        both = own, draw.permutation(drawn)
        times = np.concatenate([middles(num_supervised[ids]) for ids in both])
        return np.concatenate(both)[np.argsort(times, kind="stable")]


def middles(num_tokens: np.ndarray) -> np.ndarray:
    """The position of the middle of each part, from 0 to 1, in the concatenation of all tokens."""
    ends = np.cumsum(num_tokens)
    return (ends - num_tokens / 2) / ends[-1]
