"""Exponential means of a run's checkpoints, tensor by tensor."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_talr.checkpoint.checkpoint_weights import checkpoint_identity
from lit_talr.checkpoint.weights import Weights, widest
from lit_talr.utils.identity import WeightsIdentity
from lit_talr.utils.score import digest


def decayed_shares(paths: Sequence[Path], decay: float) -> dict[Path, float]:
    """The share of each checkpoint, oldest first, in ``m = theta_1``, then ``m <- decay * m + (1 - decay) * theta_k``."""
    last = len(paths) - 1
    return {path: decay ** (last - index) * (1 - decay if index else 1.0) for index, path in enumerate(paths)}


def bema_shares(steps: Mapping[Path, int]) -> tuple[dict[Path, float], float]:
    """The share of each checkpoint, oldest first, and that of the base model in BEMA (Block and Zhang, "EMA Without the Lag", arXiv:2508.00180).

    ``m = theta_0``, then ``m <- (1 - b) m + b theta_t`` with ``b = (10 + t) ^ -0.5`` at each kept step t, and after the last one, T,
    ``m + (10 + T) ^ -0.2 * (theta_T - theta_0)``. The constants are the defaults of TRL's callback, which keeps one of 400 steps.
    """
    last = max(steps.values())
    shares: dict[Path, float] = {}
    base = 1.0
    for path, step in steps.items():
        weight = (10 + step) ** -0.5
        shares = {earlier: (1 - weight) * share for earlier, share in shares.items()} | {path: weight}
        base *= 1 - weight
    correction = (10 + last) ** -0.2
    return {path: share + correction * (steps[path] == last) for path, share in shares.items()}, base - correction


def mean_weights(weights: Mapping[Path, Weights], shares: Mapping[Path, float], base: Weights | None = None, base_share: float = 0.0) -> Weights:
    """The sum of the weights of checkpoints of one run, and of its base model, each with its share, in float32 or wider; one alone is left as it is.

    Tensors that are not floating-point are those of the newest.
    """
    *_, newest = weights.values()
    if len(weights) == 1:
        return newest

    def read(name: str) -> Tensor:
        total = newest.read(name)
        if not total.is_floating_point():
            return total
        wide = torch.promote_types(total.dtype, torch.float32)
        total = torch.zeros(total.shape, dtype=wide)
        for path, part in weights.items():
            total.add_(part.read(name).to(wide), alpha=shares[path])
        if base is not None and base_share:
            total.add_(base.read(name).to(wide), alpha=base_share)
        return total

    return Weights(newest.shapes, widest([newest.dtype], torch.float32), read)


def mean_identity(shares: Mapping[Path, float], base_share: float = 0.0) -> WeightsIdentity:
    """The identity of the sum; that of one checkpoint is its own."""
    identities = [checkpoint_identity(path) for path in shares]
    if len(identities) == 1:
        return identities[0]
    terms = list(zip(shares.values(), (part.digest for part in identities), strict=True))
    base = identities[-1].base
    return WeightsIdentity(base, digest([*terms, (base_share, base)] if base_share else terms), None)
