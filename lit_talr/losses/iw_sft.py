"""Importance-weighted fine-tuning: tokens that training has made more likely weigh more."""

from typing import Literal

from torch import Tensor

from lit_talr.losses.base import LossStrategy, TokenStats, of_sequence, sequence_means
from lit_talr.utils.errors import check_in

BOUNDS = {"sequence": (0.0, 16.0), "token": (0.2, 1.8)}
"""The authors' clipping of each form."""


class IWSFT(LossStrategy):
    """``w = clip((p / p_0) ^ sharpness)``, p_0 under the base model; by sequence, the geometric mean of that over its supervised tokens.

    Weights are 1 as long as the model is the base model, and grow where training succeeds.

    Source: Qin and Springenberg, "Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be improved)", arXiv:2507.12856, and its
    code, where the sequence form is clipped to [0, 16]; the token form, clipped to [0.2, 1.8], is defined there but never called.

    Use: for curated responses, where the best fitting ones should count most. It was not designed against forgetting.

    Args:
        level: ``sequence``, one weight for an example, or ``token``.
        sharpness: Exponent of the ratio, at least 0 and finite; 0 is Standard.
        bounds: Least and largest weight; the authors' for the level by default.

    Raises:
        ValueError: For an exponent out of range, or bounds that do not rise from at least 0; at start-up from random weights.
    """

    needs = frozenset({"base_nll"})

    def __init__(self, level: Literal["sequence", "token"] = "sequence", sharpness: float = 1.0, bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        lower, upper = bounds = bounds or BOUNDS[level]
        check_in("sharpness", sharpness, "[0, inf)")
        if not 0 <= lower < upper:
            raise ValueError(f"`bounds` must be two rising numbers of at least 0, got [{lower}, {upper}].")
        self.level = level
        self.sharpness = sharpness
        self.bounds = bounds

    def weights(self, stats: TokenStats) -> Tensor:
        assert stats.base_nll is not None
        gain = stats.base_nll - stats.nll.detach()  # ln(p / p_0)
        if self.level == "sequence":
            gain = of_sequence(sequence_means(gain, stats), stats)
        return (self.sharpness * gain).exp().clamp(*self.bounds)
