"""Scores of every supervised token under a model: its NLL, its rank, and the entropy of the predicted distribution."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from lit_talr.data.encoder import Encoded
from lit_talr.losses import TALR, talr_weights
from lit_talr.losses.base import TokenStats
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.head import Head
from lit_talr.utils.progress import track

CHUNK_TOKENS = 256
"""Number of tokens whose logits are held at a time: 160 MB for a vocabulary of 150,000."""


class TokenScores(NamedTuple):
    """Scores of all supervised tokens, one example after the other, on the CPU."""

    nll: Tensor  # [N] float32 nats
    rank: Tensor  # [N] int64, 1 for a token that none is more likely than
    entropy: Tensor  # [N] float32 nats


@torch.inference_mode()
def score_tokens(backbone: Backbone, rows: Sequence[Encoded], title: str = "") -> TokenScores:
    """Run a model over examples, one at a time and so without padding.

    Args:
        backbone: In evaluation mode.
        rows: Each with at least one supervised token.
        title: Title of the progress bar.
    """
    device = backbone.head.weight.device
    parts = []
    for row in track(rows, title, console=Console(stderr=True)):
        tokens = torch.from_numpy(row.input_ids).long().to(device)
        mask = torch.from_numpy(row.supervised).to(device)[1:]
        inputs, labels = tokens[None, :-1], tokens[1:][mask]
        hidden = backbone.states(inputs)[0][mask]
        output = backbone.head(hidden, labels, entropy=True)
        parts.append([output.nll, ranks(hidden, labels, backbone.head), output.entropy])
    return TokenScores(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def ranks(hidden_ND: Tensor, labels_N: Tensor, head: Head, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """``[N]`` int64: one more than the number of tokens that are more likely than the label.

    It equals the following, without holding logits ``[N, V]``; scale and soft-cap, which preserve the order, are left out::

        1 + (logits > logits.gather(1, labels[:, None])).sum(1)
    """
    parts = [labels_N[:0]]
    for hidden_CD, labels_C in zip(hidden_ND.split(chunk_tokens), labels_N.split(chunk_tokens), strict=True):
        logits_CV = head(hidden_CD)
        parts.append(1 + (logits_CV > logits_CV.gather(1, labels_C[:, None])).sum(1))
    return torch.cat(parts)


def weigh_tokens(nll: Tensor, num_tokens: Sequence[int]) -> tuple[Tensor, float]:
    """The weights ``[N]`` of TALR with its defaults if the examples, of so many tokens each, were one micro-batch; and the temperature in nats."""
    sequence_ids = torch.arange(len(num_tokens)).repeat_interleave(torch.tensor(num_tokens))
    stats = TokenStats(nll[None], torch.ones_like(nll[None], dtype=torch.bool), sequence_ids[None])
    temperature = TALR().batch_temperature(stats)
    return talr_weights(stats.nll, stats.mask, temperature=temperature)[0], float(temperature)
