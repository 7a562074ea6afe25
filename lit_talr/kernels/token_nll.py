"""Per-token NLL and entropy of a language-model head without its logits: plain torch, for CPU and CUDA.

Shape suffixes: N tokens, V vocabulary, D width, C supervised tokens of one chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_talr.kernels.chunked_head import Chunk, ChunkedHead, HeadTensors, TokenScores, check_head
from lit_talr.utils.errors import check_least

IGNORE_INDEX = -100
"""The label of a token that carries no loss."""
KEPT_BYTES = 2**28
"""Default bound of the logits that are kept for the gradient instead of being computed twice, in bytes."""
CHUNK_TOKENS, CHUNK_TOKENS_CUDA = 512, 1024
"""Default tokens of a chunk. On a CPU the fewest that are as fast as any (benchmarks/results/head-cpu.md); on CUDA not yet measured."""
TOP = 20
"""Number of most likely tokens that ``top_entropy`` covers; all of them in a smaller vocabulary."""


class TokenNLL(NamedTuple):
    """Per-token results of ``token_nll``; those that were not asked for are None."""

    nll: Tensor  # [N] nats, carries gradient, 0 where ignored
    correct: Tensor | None = None  # [N] bool, whether no token is more likely than the label; False where ignored
    entropy: Tensor | None = None  # [N] nats, detached, 0 where ignored
    top_entropy: Tensor | None = None  # [N] the same of the TOP most likely tokens, renormalised


def token_nll(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_tokens: int | None = None,
    kept_bytes: int = KEPT_BYTES,
    all_supervised: bool = False,
    correct: bool = False,
    entropy: bool = False,
    top_entropy: bool = False,
) -> TokenNLL:
    """Scores labels under the head's distribution. Equals this, but never holds more logits than those of a chunk, or ``kept_bytes``::

        logits = scale * F.linear(hidden_ND, weight_VD, bias_V).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        nll = F.cross_entropy(logits, labels_N, reduction="none", ignore_index=IGNORE_INDEX)
        correct = logits.argmax(-1) == labels_N
        entropy = Categorical(logits=logits.detach()).entropy().where(labels_N != IGNORE_INDEX, 0)
        top_entropy = Categorical(logits=logits.detach().topk(TOP).values).entropy().where(labels_N != IGNORE_INDEX, 0)

    The scale comes first (transformers: Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``), then the soft-cap (Gemma 2's
    ``final_logit_softcapping``); no model of transformers has both.

    If the logits of all supervised tokens fit ``kept_bytes`` and have no soft-cap, their exponentials are kept for backward. Otherwise only the arguments
    and vectors ``[N]`` are kept, and backward computes the logits of each chunk again.

    Logits and sums over tokens are float32 (float64 for float64 arguments); a gradient is rounded once, to the dtype of its tensor. Autocast rounds the
    operands to its dtype. CUDA multiplies half-precision operands as they are, with float32 results; the logits' gradient is rounded to their dtype. CPUs
    multiply them in float32: more exact, but slower than bf16 instructions, and with a float32 copy of the weight.

    Args:
        hidden_ND: ``[N, D]``, the decoder's output; carries gradient. N may be 0.
        weight_VD: ``[V, D]``, the head's weight, of the same dtype unless under autocast; carries gradient.
        labels_N: ``[N]`` int64 in [0, V), or ``IGNORE_INDEX``.
        bias_V: ``[V]``, the head's bias; carries gradient.
        softcap: Bound of the logits, above 0; ``None`` for none.
        scale: Factor of the logits.
        chunk_tokens: Supervised tokens whose logits are held at a time, at least 1; by default CHUNK_TOKENS, or CHUNK_TOKENS_CUDA.
        all_supervised: No label is ``IGNORE_INDEX``; spares CUDA a synchronization.
        kept_bytes: Bytes of all logits up to which they are kept for backward, at least 0 (never).
        correct: Also tell whether the label is the most likely token.
        entropy: Also give each distribution's entropy.
        top_entropy: Also give the entropy of its TOP most likely tokens.

    Returns:
        ``nll`` ``[N]`` float32 (float64 for float64 arguments); its incoming gradient may differ from token to token. With nothing supervised the
        gradients are exact zeros, not ``None``. They cannot be differentiated again. ``correct`` ``[N]`` bool; ``entropy`` and
        ``top_entropy`` ``[N]`` of the dtype of ``nll``, detached; ``None`` unless asked for.

    Raises:
        ValueError: For shapes or dtypes that do not fit together, a label out of range (on CUDA a device-side assertion), or an option out of range.
    """
    dtype, rows = check_arguments(hidden_ND, weight_VD, labels_N, bias_V, softcap, all_supervised)
    if chunk_tokens is None:
        chunk_tokens = CHUNK_TOKENS_CUDA if hidden_ND.is_cuda else CHUNK_TOKENS
    check_least("chunk_tokens", chunk_tokens, 1)
    check_least("kept_bytes", kept_bytes, 0, "0 keeps no logits")
    head = ChunkedHead(dtype, softcap, scale, chunk_tokens)
    size = len(rows) * len(weight_VD) * head.sum_dtype.itemsize
    trained = any(tensor is not None and tensor.requires_grad for tensor in (hidden_ND, weight_VD, bias_V))
    keep = size <= kept_bytes and softcap is None and torch.is_grad_enabled() and trained
    scorer = Scorer(head, keep, correct, entropy, top_entropy)
    return TokenNLL(*TokenScores.apply(scorer, hidden_ND, weight_VD, bias_V, labels_N, rows))


def check_arguments(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, bias_V: Tensor | None, softcap: float | None, all_supervised: bool
) -> tuple[torch.dtype, Tensor]:
    """Checks the arguments of a kernel; returns the dtype of the operands of its matrix product, and the supervised rows ``[C]``.

    Raises:
        ValueError: As ``token_nll`` promises.
    """
    dtype = check_head(hidden_ND, weight_VD, bias_V, softcap)
    if labels_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"`labels_N` must be [N] for `hidden_ND` [N, D], got {tuple(labels_N.shape)} for {tuple(hidden_ND.shape)}.")
    rows = torch.arange(len(labels_N), device=labels_N.device) if all_supervised else (labels_N != IGNORE_INDEX).nonzero().squeeze(1)
    wrong = (labels_N[rows] < 0) | (labels_N[rows] >= len(weight_VD))
    if not labels_N.is_cuda and wrong.any():  # CUDA asserts where it indexes, without making the host wait
        raise ValueError(f"`labels_N` must lie in [0, {len(weight_VD)}) or be {IGNORE_INDEX}, got {int(labels_N[rows][wrong][0])}.")
    return dtype, rows


@dataclass(eq=False)
class Scorer:
    """How ``TokenScores`` computes the NLL, given labels ``[N]`` and the supervised rows ``[C]``; ``keep`` keeps the exponentials of the logits."""

    head: ChunkedHead
    keep: bool
    correct: bool
    entropy: bool
    top_entropy: bool
    kept: Tensor | None = None  # exponentials of the logits, until backward

    def forward(self, model: HeadTensors, labels_N: Tensor, rows: Tensor) -> tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]:
        hidden_ND, weight_VD, _ = model
        correct_N = torch.zeros_like(labels_N, dtype=torch.bool) if self.correct else None
        nll_N, top_N, sum_N = (hidden_ND.new_zeros(len(hidden_ND), dtype=self.head.sum_dtype) for _ in range(3))
        entropy_N, top_entropy_N = (torch.zeros_like(nll_N) if asked else None for asked in (self.entropy, self.top_entropy))
        self.kept = hidden_ND.new_empty(len(rows), len(weight_VD), dtype=self.head.sum_dtype) if self.keep else None
        for rows_C, _, logits_CV in self.head.chunks(model, rows, self.kept):
            top_C = logits_CV.amax(1)
            label_logit_C = logits_CV.gather(1, labels_N[rows_C, None]).squeeze(1)
            if correct_N is not None:
                correct_N[rows_C] = label_logit_C == top_C
            if top_entropy_N is not None:
                top_entropy_N[rows_C] = torch.special.entr(logits_CV.topk(min(TOP, logits_CV.shape[1])).values.softmax(1)).sum(1)
            exp_CV = logits_CV.sub_(top_C[:, None]).exp_()
            sum_C = exp_CV.sum(1)
            nll_N[rows_C] = (top_C - label_logit_C) + sum_C.log()
            top_N[rows_C], sum_N[rows_C] = top_C, sum_C  # their logsumexp would lose digits where logits are large
            if entropy_N is not None:
                p_CV = exp_CV / sum_C[:, None] if self.keep else exp_CV.div_(sum_C[:, None])
                entropy_N[rows_C] = torch.special.entr(p_CV, out=p_CV).sum(1)
        return (nll_N, correct_N, entropy_N, top_entropy_N), (top_N, sum_N)

    def logit_gradients(self, grad_N: Tensor, model: HeadTensors, labels_N: Tensor, rows: Tensor, top_N: Tensor, sum_N: Tensor) -> Iterator[Chunk]:
        kept_NV, self.kept = self.kept, None  # overwritten here: a second backward computes them again
        chunks = self.head.chunks(model, rows) if kept_NV is None else self.head.slices(model[0], rows, kept_NV)
        for rows_C, hidden_CD, values_CV in chunks:
            grad_C, labels_C = grad_N[rows_C, None], labels_N[rows_C, None]
            slope_CV = None if self.head.softcap is None else (values_CV / self.head.softcap).square_().neg_().add_(1)
            exp_CV = values_CV.sub_(top_N[rows_C, None]).exp_() if kept_NV is None else values_CV
            dlogits_CV = exp_CV.mul_(grad_C / sum_N[rows_C, None])
            dlogits_CV.scatter_(1, labels_C, dlogits_CV.gather(1, labels_C) - grad_C)
            yield rows_C, hidden_CD, dlogits_CV if slope_CV is None else dlogits_CV.mul_(slope_CV)
