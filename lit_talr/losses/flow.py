"""FLOW: examples that the base model finds hard weigh less, from the first step to the last."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats, of_sequence, sequence_means


class FLOW(LossStrategy):
    """``w = exp(-f / temperature)``, f the example's mean NLL under the base model; the temperature is the median of f over the training set.

    Weights never change during training. With ``level: token``, f is each token's own NLL, and the median is taken over all tokens: a static TALR. With
    most tokens at p near 1 that median is close to 0, so nearly all other tokens are switched off.

    Source: Sanyal et al., "Upweighting Easy Samples in Fine-Tuning Mitigates Forgetting" (FLOW), arXiv:2502.02797, Algorithm 1; not normalised
    (after its Proposition 4.3). Its code has the token form, divides by the number of tokens (Algorithm 1 sums over examples), and takes the mean of the
    two middle values as the median of an even number.

    Use: at 5e-6 it kept the most general ability among the TALR paper's baselines whose numbers are known. It costs one forward over the training set.

    Args:
        level: ``sample``, one weight for an example, or ``token``.
        temperature: A fixed temperature in nats, above 0 (``.inf`` gives Standard's weights); left out, the median, at least 1e-6.

    Raises:
        ValueError: For a temperature out of range; at start-up from random weights.
    """

    needs = frozenset({"base_nll"})

    def __init__(self, level: Literal["sample", "token"] = "sample", temperature: float | None = None) -> None:
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {temperature}; leave it out to take the median over the training set.")
        self.level = level
        self.temperature = temperature
        self.median: float | None = None  # over the training set, set by `prepare`

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        if self.temperature is None:
            values = base_nll
            if self.level == "sample":
                values = np.add.reduceat(base_nll, np.cumsum(num_tokens) - num_tokens, dtype=np.float64) / num_tokens
            self.median = max(float(np.median(values)), 1e-6)

    @property
    def used_temperature(self) -> float:
        """The given temperature, or the median."""
        temperature = self.median if self.temperature is None else self.temperature
        assert temperature is not None, "`prepare` comes first"
        return temperature

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        nll = stats.base_nll
        if self.level == "sample":
            nll = of_sequence(sequence_means(nll, stats), stats)
        return (-nll / self.used_temperature).exp()

    def metrics(self) -> dict[str, Tensor]:
        """``flow/temperature``, which never changes."""
        return {"flow/temperature": torch.tensor(self.used_temperature)}
