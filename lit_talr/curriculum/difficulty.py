"""Tokens by how hard the base model finds them: how likely they are by now, and how much of the gradient is theirs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lit_talr.curriculum.token_groups import Row, probabilities

if TYPE_CHECKING:
    from lit_talr.data.encoded import EncodedExamples

HARD, EASY = 0.2, 0.95
"""Below the first a token is hard, above the second easy."""
GROUPS = ("noise", "hard", "between", "easy")
"""Every token is in one of them; the last three hold no noise."""


def supervised_noise(encoded: "EncodedExamples", ids: np.ndarray) -> Tensor:
    """Tells for each supervised token of some examples, one example after the other, whether it is noise."""
    spans = [slice(encoded.offsets[index], encoded.offsets[index + 1]) for index in ids]
    return torch.from_numpy(np.concatenate([encoded.noise[span][encoded.supervised[span]] for span in spans]))


def difficulty_rows(nll: Tensor, weights: Tensor, base_nll: Tensor, noise: Tensor) -> list[Row]:
    """A row for each group, for the tokens that the base model finds hard, and for those of them that are still hard.

    ``gradient_share`` is the group's share of ``sum(weight * (1 - p))``. That is half the sum of the absolute gradients at the logits, exactly; terms that a
    loss adds to the weighted NLL are not in it.

    Args:
        nll: ``[N]`` NLL of each token, in nats.
        weights: ``[N]`` weights of the loss.
        base_nll: ``[N]`` NLL under the base model.
        noise: ``[N]`` bool, True for noise.
    """
    base = probabilities(base_nll)
    hard, easy = base < HARD, base > EASY
    masks = dict(zip(GROUPS, (noise, hard & ~noise, ~(hard | easy | noise), easy & ~noise), strict=True))
    pull = weights.double() * (1 - probabilities(nll.double()))
    columns = {"nll": nll, "base_nll": base_nll, "probability": probabilities(nll), "weight": weights}
    rows = []
    for group, mask in masks.items():
        means = {name: mean_of(values, mask) for name, values in columns.items()}
        share = float(pull[mask].sum() / pull.sum()) if pull.sum() else None
        rows.append({"group": group, "num_tokens": int(mask.sum()), **means, "gradient_share": share})
    still = hard & (probabilities(nll) < HARD)
    for group, mask in (("base_hard", hard), ("still_hard", still)):
        rows.append({"group": group, "num_tokens": int(mask.sum()), "base_nll": mean_of(base_nll, mask)})
    return rows


def still_hard_share(rows: Sequence[Row], name: str) -> float | None:
    """The share of the tokens that the base model finds hard which are still hard, from one epoch's rows; None without any.

    Args:
        rows: Of one epoch.
        name: The set of tokens.
    """
    counts = {row["group"]: row["num_tokens"] for row in rows if row["set"] == name and row["group"] in ("base_hard", "still_hard")}
    return counts["still_hard"] / counts["base_hard"] if counts.get("base_hard") else None


def mean_of(values: Tensor, mask: Tensor) -> float | None:
    return float(values[mask].double().mean()) if mask.any() else None


def sequence_median(nll: Tensor, num_supervised: np.ndarray) -> float:
    """The lower median over examples of the mean NLL: where TALR's temperature would be if they were one batch."""
    means = [float(part.double().mean()) for part in nll.split(num_supervised.tolist())]
    return float(torch.tensor(means, dtype=torch.float64).nanmedian())
