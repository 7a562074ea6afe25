"""Selective token masking: what the starting model did not expect is not learned."""

import math

import numpy as np
from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats


class STM(LossStrategy):
    """``w = 1`` where ``exp(nll_0) <= max_perplexity``, else 0; nll_0 is the token's NLL under the starting model.

    Tokens that are left out still count in the number that the sum is divided by, where the authors' masking leaves them out of it too: a factor
    near the share of tokens kept, which AdamW cancels (not its clipping).

    Source: selective token masking, Wu et al., "Mitigating Forgetting in LLM Fine-Tuning via Low-Perplexity Token Learning", arXiv:2501.14315, and its
    code: tokens of a perplexity above 2.5 (p below .4) are masked.

    Use: for answers written by others than the model, when few words matter; what is masked is never learned.

    Args:
        max_perplexity: The largest perplexity of a token that counts, at least 1.

    Raises:
        ValueError: For a perplexity below 1; at start-up from random weights, and if it masks every token.
    """

    needs = frozenset({"base_nll"})

    def __init__(self, max_perplexity: float = 2.5) -> None:
        super().__init__()
        if not max_perplexity >= 1:
            raise ValueError(f"`max_perplexity` must be at least 1, got {max_perplexity}.")
        self.max_perplexity = max_perplexity

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        if not (base_nll <= math.log(self.max_perplexity)).any():
            least = math.exp(base_nll.min())
            raise ValueError(f"`max_perplexity` {self.max_perplexity} masks every token of the training set, whose least perplexity is {least:.4g}; raise it.")

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        return (stats.base_nll.exp() <= self.max_perplexity).to(stats.nll.dtype)
