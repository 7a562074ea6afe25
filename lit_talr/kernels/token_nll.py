"""Per-token NLL and entropy of a language-model head without its logits: plain torch, for CPU and CUDA.

Shape suffixes: N tokens, V vocabulary, D width, C supervised tokens of one chunk.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
"""The label of a token that carries no loss."""
KEPT_BYTES = 2**28
"""Logits of up to this size are kept for the gradient instead of being computed twice, unless another bound is given."""
CHUNK_TOKENS, CHUNK_TOKENS_CUDA = 512, 1024
"""Tokens of a chunk, unless another number is given: on a CPU the least that is as fast as any (benchmarks/results/head-cpu.md); on CUDA by reasoning alone."""
TOP = 20
"""How many of the most likely tokens ``top_entropy`` is of; all where the vocabulary has fewer."""


class TokenNLL(NamedTuple):
    """What ``token_nll`` returns."""

    nll: Tensor  # [N] nats, carries gradient, 0 where ignored
    correct: Tensor | None = None  # [N] bool, whether no token is more likely than the label, False where ignored; None, like the rest, unless asked for
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
    """Score labels under the head's distribution, as this does, without ever holding more than ``kept_bytes`` of logits or those of a chunk::

        logits = scale * F.linear(hidden_ND, weight_VD, bias_V).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        nll = F.cross_entropy(logits, labels_N, reduction="none", ignore_index=IGNORE_INDEX)
        correct = logits.argmax(-1) == labels_N
        entropy = Categorical(logits=logits.detach()).entropy().where(labels_N != IGNORE_INDEX, 0)
        top_entropy = Categorical(logits=logits.detach().topk(TOP).values).entropy().where(labels_N != IGNORE_INDEX, 0)

    The scale comes first (transformers: Cohere multiplies by ``logit_scale``, Granite divides by ``logits_scaling``), then the soft-cap (Gemma 2's
    ``final_logit_softcapping``); no model of transformers has both.

    Forward and backward go through the tokens in chunks. Where the logits of all supervised tokens fit ``kept_bytes``, their exponentials are kept for
    backward, which a soft-cap forbids; otherwise it computes them again, and what is kept are the arguments and vectors ``[N]``. Logits and
    sums over tokens are float32; a gradient is rounded once, to the dtype of its tensor. Under autocast the operands are rounded to its dtype. On
    CUDA half-precision operands are multiplied as they are, the logits' gradient rounded to their dtype, with float32 results; elsewhere they are
    multiplied in float32, which is more exact, but slower where a CPU has bf16 instructions, and holds a float32 copy of the weight meanwhile.
    Float64 arguments are computed in float64 throughout. Ignored tokens cost nothing but, on CUDA, one synchronization to find them, unless there are none.

    Args:
        hidden_ND: ``[N, D]``, the decoder's output; carries gradient. N may be 0.
        weight_VD: ``[V, D]``, the head's weight, of the same dtype unless under autocast; carries gradient.
        labels_N: ``[N]`` int64 in [0, V), or ``IGNORE_INDEX``.
        bias_V: ``[V]``, the head's bias; carries gradient.
        softcap: Bound of the logits, above 0; ``None`` for none.
        scale: Factor of the logits.
        chunk_tokens: Supervised tokens whose logits are held at a time, at least 1; by default CHUNK_TOKENS, or CHUNK_TOKENS_CUDA.
        all_supervised: No label is ``IGNORE_INDEX``.
        kept_bytes: How large all logits may be to be kept for backward, at least 0 (never).
        correct: Also tell whether the label is the most likely token.
        entropy: Also give each distribution's entropy.
        top_entropy: Also give the entropy of its TOP most likely tokens.

    Returns:
        ``nll`` ``[N]`` float32 (float64 for float64 arguments), whose incoming gradient may differ from token to token; with nothing supervised the
        gradients are exact zeros, not ``None``. They cannot be differentiated again. ``correct`` ``[N]`` bool; ``entropy`` and
        ``top_entropy`` ``[N]`` of the dtype of ``nll``, detached; ``None`` unless asked for.

    Raises:
        ValueError: For shapes or dtypes that do not fit together, a label out of range (on CUDA a device-side assertion), or an option out of range.
    """
    dtype, rows = check_arguments(hidden_ND, weight_VD, labels_N, bias_V, softcap, all_supervised)
    if chunk_tokens is None:
        chunk_tokens = CHUNK_TOKENS_CUDA if hidden_ND.is_cuda else CHUNK_TOKENS
    if chunk_tokens < 1:
        raise ValueError(f"`chunk_tokens` must be at least 1, got {chunk_tokens}.")
    if kept_bytes < 0:
        raise ValueError(f"`kept_bytes` must be 0 (keep no logits) or a positive integer, got {kept_bytes}.")
    head = _Head(dtype, softcap, scale, chunk_tokens)
    size = len(rows) * len(weight_VD) * head.sum_dtype.itemsize
    trained = any(tensor is not None and tensor.requires_grad for tensor in (hidden_ND, weight_VD, bias_V))
    keep = size <= kept_bytes and softcap is None and torch.is_grad_enabled() and trained
    return TokenNLL(*_TokenNLL.apply(hidden_ND, weight_VD, bias_V, labels_N, rows, head, keep, correct, entropy, top_entropy))


def check_arguments(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, bias_V: Tensor | None, softcap: float | None, all_supervised: bool
) -> tuple[torch.dtype, Tensor]:
    """What a matrix product takes its operands as, and where the supervised tokens are, ``[C]``.

    Raises:
        ValueError: As ``token_nll`` promises.
    """
    tensors = [hidden_ND, weight_VD] if bias_V is None else [hidden_ND, weight_VD, bias_V]
    shapes = [tuple(tensor.shape) for tensor in [labels_N, *tensors]]
    num_tokens, num_vocabulary, width = labels_N.numel(), len(weight_VD), weight_VD.shape[-1]
    if shapes != [(num_tokens,), (num_tokens, width), (num_vocabulary, width), (num_vocabulary,)][: len(shapes)]:
        raise ValueError(f"`labels_N`, `hidden_ND`, `weight_VD` and `bias_V` must be [N], [N, D], [V, D] and [V], got {shapes}.")
    dtypes = {_autocast_dtype(tensor) for tensor in tensors}
    if len(dtypes) > 1:
        raise ValueError(f"`hidden_ND`, `weight_VD` and `bias_V` must have one dtype, got {[tensor.dtype for tensor in tensors]}; cast them or use autocast.")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"`softcap` must be above 0, or None for no soft-cap, got {softcap}.")
    rows = torch.arange(num_tokens, device=labels_N.device) if all_supervised else (labels_N != IGNORE_INDEX).nonzero().squeeze(1)
    wrong = (labels_N[rows] < 0) | (labels_N[rows] >= num_vocabulary)
    if not labels_N.is_cuda and wrong.any():  # CUDA asserts where it indexes, without making the host wait
        raise ValueError(f"`labels_N` must lie in [0, {num_vocabulary}) or be {IGNORE_INDEX}, got {int(labels_N[rows][wrong][0])}.")
    return dtypes.pop(), rows


def _autocast_dtype(tensor: Tensor) -> torch.dtype:
    """What a matrix product takes ``tensor`` as."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64 else tensor.dtype


class _Head(NamedTuple):
    """How logits are made of hidden states; ``dtype`` is what the operands of matrix products are rounded to."""

    dtype: torch.dtype
    softcap: float | None
    scale: float
    chunk_tokens: int

    @property
    def sum_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def operand(self, tensor: Tensor) -> Tensor:
        fused = tensor.is_cuda and torch.version.hip is None  # half-precision operands, float32 result
        return tensor.to(self.dtype).to(self.dtype if fused else self.sum_dtype)

    def places(self, hidden_ND: Tensor, rows: Tensor, buffer_XV: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, hidden states and place in the buffer of one chunk after the other; a buffer that does not hold them all is used again for each."""
        for start in range(0, len(rows), self.chunk_tokens):
            rows_C = rows[start : start + self.chunk_tokens]
            first = start if len(buffer_XV) == len(rows) else 0
            yield rows_C, self.operand(hidden_ND[rows_C]), buffer_XV[first : first + len(rows_C)]

    def chunks(
        self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, rows: Tensor, buffer_NV: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, hidden states and logits of one chunk after the other; the logits may be overwritten, and without a buffer are lost with the next chunk."""
        if buffer_NV is None:
            buffer_NV = weight_VD.new_empty(min(self.chunk_tokens, len(rows)), len(weight_VD), dtype=self.sum_dtype)
        for rows_C, hidden_CD, logits_CV in self.places(hidden_ND, rows, buffer_NV):
            _add_product(logits_CV, hidden_CD, weight_VD.T, beta=0)
            if bias_V is not None:
                logits_CV.add_(self.operand(bias_V))
            if self.scale != 1:
                logits_CV.mul_(self.scale)
            if self.softcap is not None:
                logits_CV.div_(self.softcap).tanh_().mul_(self.softcap)
            yield rows_C, hidden_CD, logits_CV


def _add_product(sum_XY: Tensor, left_XZ: Tensor, right_ZY: Tensor, beta: float = 1) -> None:
    """``sum = beta * sum + left @ right`` in the dtype of ``sum``."""
    if sum_XY.dtype == left_XZ.dtype:
        sum_XY.addmm_(left_XZ, right_ZY, beta=beta)
    else:  # CUDA only
        torch.addmm(sum_XY, left_XZ, right_ZY, beta=beta, out_dtype=sum_XY.dtype, out=sum_XY)


class _TokenNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        rows: Tensor,
        head: _Head,
        keep: bool,
        correct: bool,
        entropy: bool,
        top_entropy: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        correct_N = torch.zeros_like(labels_N, dtype=torch.bool) if correct else None
        nll_N, top_N, sum_N = (hidden_ND.new_zeros(len(hidden_ND), dtype=head.sum_dtype) for _ in range(3))
        entropy_N, top_entropy_N = (torch.zeros_like(nll_N) if asked else None for asked in (entropy, top_entropy))
        ctx.kept_NV = hidden_ND.new_empty(len(rows), len(weight_VD), dtype=head.sum_dtype) if keep else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for rows_C, _, logits_CV in head.chunks(hidden_ND, head.operand(weight_VD), bias_V, rows, ctx.kept_NV):
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
                    p_CV = exp_CV / sum_C[:, None] if keep else exp_CV.div_(sum_C[:, None])
                    entropy_N[rows_C] = torch.special.entr(p_CV, out=p_CV).sum(1)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, rows, top_N, sum_N)  # the parameter itself: ZeRO-3 gathers it again
        ctx.head = head
        ctx.mark_non_differentiable(*(output for output in (correct_N, entropy_N, top_entropy_N) if output is not None))
        return nll_N, correct_N, entropy_N, top_entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, rows, top_N, sum_N = ctx.saved_tensors
        head: _Head = ctx.head
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_hidden_ND = torch.zeros_like(hidden_ND) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=head.sum_dtype) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=head.sum_dtype) if needs_bias else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            operand_VD = head.operand(weight_VD)
            kept_NV, ctx.kept_NV = ctx.kept_NV, None  # overwritten here: if there is a second backward, it computes them again
            chunks = head.chunks(hidden_ND, operand_VD, bias_V, rows) if kept_NV is None else head.places(hidden_ND, rows, kept_NV)
            for rows_C, hidden_CD, values_CV in chunks:
                grad_C, labels_C = grad_N[rows_C, None], labels_N[rows_C, None]
                slope_CV = None if head.softcap is None else (values_CV / head.softcap).square_().neg_().add_(1)
                exp_CV = values_CV.sub_(top_N[rows_C, None]).exp_() if kept_NV is None else values_CV
                dlogits_CV = exp_CV.mul_(grad_C / sum_N[rows_C, None])
                dlogits_CV.scatter_(1, labels_C, dlogits_CV.gather(1, labels_C) - grad_C)
                if slope_CV is not None:
                    dlogits_CV.mul_(slope_CV)
                if head.scale != 1:
                    dlogits_CV.mul_(head.scale)
                if grad_bias_V is not None:
                    grad_bias_V += dlogits_CV.sum(0)
                dlogits_CV = dlogits_CV.to(hidden_CD.dtype)
                if grad_hidden_ND is not None:
                    grad_hidden_CD = torch.empty_like(hidden_CD, dtype=head.sum_dtype)
                    _add_product(grad_hidden_CD, dlogits_CV, operand_VD, beta=0)
                    grad_hidden_ND[rows_C] = grad_hidden_CD.to(grad_hidden_ND.dtype)
                if grad_weight_VD is not None:
                    _add_product(grad_weight_VD, dlogits_CV.T, hidden_CD)
        grads = (grad_hidden_ND, hidden_ND), (grad_weight_VD, weight_VD), (grad_bias_V, bias_V)
        return *(None if grad is None else grad.to(tensor.dtype) for grad, tensor in grads), *[None] * 7
