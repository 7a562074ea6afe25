"""Selective token masking: tokens that the base model did not expect are not learned."""

import math

import numpy as np
from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats
from lit_talr.utils.errors import check_least


class STM(LossStrategy):
    """``w = 1`` where ``exp(nll_0) <= max_perplexity``, else 0; nll_0 is the token's NLL under the base model.

    Masked tokens still count in the number that the sum is divided by; the authors' masking leaves them out. That is a factor near the share of unmasked
    tokens, which AdamW cancels, but clipping does not.

    Source: selective token masking, Wu et al., "Mitigating Forgetting in LLM Fine-Tuning via Low-Perplexity Token Learning", arXiv:2501.14315, and its
    code: tokens of a perplexity above 2.5 (p below .4) are masked.

    Use: for responses that the model did not write, where few words matter; masked tokens are never learned.

    Args:
        max_perplexity: Largest perplexity of a token that counts, at least 1.

    Raises:
        ValueError: For a perplexity below 1; at start-up from random weights, and if it masks every token.
    """

    needs = frozenset({"base_nll"})

    def __init__(self, max_perplexity: float = 2.5) -> None:
        super().__init__()
        check_least("max_perplexity", max_perplexity, 1)
        self.max_perplexity = max_perplexity

    def prepare(self, base_nll: np.ndarray, num_tokens: np.ndarray) -> None:
        if not (base_nll <= math.log(self.max_perplexity)).any():
            least = math.exp(base_nll.min())
            raise ValueError(f"`max_perplexity` {self.max_perplexity} masks every token of the training set, whose least perplexity is {least:.4g}; raise it.")

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        return (stats.base_nll.exp() <= self.max_perplexity).to(stats.nll.dtype)
