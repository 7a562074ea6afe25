"""How a domain's examples and general ones share an epoch: by their supervised tokens."""

from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """A domain's own examples, and behind them general ones, of which every epoch sees a part."""

    num_own: int  # all of them in every epoch
    share: float  # of an epoch's supervised tokens that are the general examples', in (0, 1)

    def num_general(self, num_supervised: np.ndarray) -> int:
        """How many general examples an epoch has, the same in every epoch, at least 1; more than there are means that some come several times."""
        own, general = num_supervised[: self.num_own], num_supervised[self.num_own :]
        return max(1, round(own.sum() * self.share / (1 - self.share) / general.mean()))

    def num_examples(self, num_supervised: np.ndarray) -> int:
        """How many examples an epoch has."""
        return self.num_own + self.num_general(num_supervised)

    def order(self, num_supervised: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The numbers of an epoch's examples in their order: every stretch of it has about ``share`` of its supervised tokens from general examples.

        Which general ones an epoch sees is drawn evenly over their lengths: one from each of as many strata of rising length as it has examples (or, where
        that is more than there are, all of them first). So the share is that of the mean length in every epoch, but for a draw inside each stratum.
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
    """Where, from 0 to 1 in all tokens one after the other, the middle of each part lies."""
    ends = np.cumsum(num_tokens)
    return (ends - num_tokens / 2) / ends[-1]
