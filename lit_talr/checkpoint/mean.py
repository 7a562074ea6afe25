"""The exponential mean of a run's checkpoints, tensor by tensor."""

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


def mean_weights(weights: Mapping[Path, Weights], shares: Mapping[Path, float]) -> Weights:
    """The sum of the weights of checkpoints of one run, each with its share, in float32 or wider; one alone is left as it is.

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
        return total

    return Weights(newest.shapes, widest([newest.dtype], torch.float32), read)


def mean_identity(shares: Mapping[Path, float]) -> WeightsIdentity:
    """The identity of the sum; that of one checkpoint is its own."""
    identities = [checkpoint_identity(path) for path in shares]
    if len(identities) == 1:
        return identities[0]
    return WeightsIdentity(identities[-1].base, digest(list(zip(shares.values(), (part.digest for part in identities), strict=True))), None)
