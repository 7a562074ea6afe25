"""A language-model head whose logits exist for one chunk of tokens at a time, and per-token scores of these logits with their gradient.

Shape suffixes: N tokens, V vocabulary, D width, C tokens of one chunk, X rows of a buffer.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_talr.utils.errors import check_in

HeadTensors = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states ``[N, D]``, weight ``[V, D]`` and bias ``[V]``."""
Chunk = tuple[Tensor, Tensor, Tensor]
"""Token indices ``[C]``, hidden states ``[C, D]``, and logits or their gradient ``[C, V]``."""


class ChunkedHead(NamedTuple):
    """How logits follow from hidden states; ``dtype`` is what the operands of matrix products are rounded to."""

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

    def slices(self, hidden_ND: Tensor, rows: Tensor, buffer_XV: Tensor) -> Iterator[Chunk]:
        """Yields rows, hidden states and a slice of the buffer for each chunk; a buffer shorter than ``rows`` is reused for every chunk."""
        for start in range(0, len(rows), self.chunk_tokens):
            rows_C = rows[start : start + self.chunk_tokens]
            first = start if len(buffer_XV) == len(rows) else 0
            yield rows_C, self.operand(hidden_ND[rows_C]), buffer_XV[first : first + len(rows_C)]

    def chunks(self, model: HeadTensors, rows: Tensor, buffer_NV: Tensor | None = None) -> Iterator[Chunk]:
        """Yields rows, hidden states and logits of each chunk; the logits may be overwritten, and without a buffer the next chunk overwrites them."""
        hidden_ND, weight_VD, bias_V = model
        if buffer_NV is None:
            buffer_NV = weight_VD.new_empty(min(self.chunk_tokens, len(rows)), len(weight_VD), dtype=self.sum_dtype)
        for rows_C, hidden_CD, logits_CV in self.slices(hidden_ND, rows, buffer_NV):
            add_product(logits_CV, hidden_CD, weight_VD.T, beta=0)
            if bias_V is not None:
                logits_CV.add_(self.operand(bias_V))
            if self.scale != 1:
                logits_CV.mul_(self.scale)
            if self.softcap is not None:
                logits_CV.div_(self.softcap).tanh_().mul_(self.softcap)
            yield rows_C, hidden_CD, logits_CV


class TokenScores(torch.autograd.Function):
    """Per-token scores of the logits of a head; backward sums the gradients of hidden states, weight and bias over the chunks.

    A scorer has a ``head`` and two methods, which are called without autocast and with the weight as an operand. ``forward(model, *others)`` returns the
    scores, the first of which carries gradient, and more tensors to keep for backward. ``logit_gradients(grad_N, model, *others, *kept)`` yields the
    gradient of each chunk's logits after scaling; it may be overwritten.
    """

    @staticmethod
    def forward(ctx: Any, scorer: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, *others: Any) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            scores, kept = scorer.forward((hidden_ND, scorer.head.operand(weight_VD), bias_V), *others)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, *others, *kept)  # the parameter itself: ZeRO-3 gathers it again
        ctx.scorer = scorer
        ctx.mark_non_differentiable(*(score for score in scores[1:] if score is not None))
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, *others = ctx.saved_tensors
        head: ChunkedHead = ctx.scorer.head
        _, needs_hidden, needs_weight, needs_bias, *rest = ctx.needs_input_grad
        grad_hidden_ND = torch.zeros_like(hidden_ND) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=head.sum_dtype) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=head.sum_dtype) if needs_bias else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            operand_VD = head.operand(weight_VD)
            for rows_C, hidden_CD, dlogits_CV in ctx.scorer.logit_gradients(grad_N, (hidden_ND, operand_VD, bias_V), *others):
                if head.scale != 1:
                    dlogits_CV.mul_(head.scale)
                if grad_bias_V is not None:
                    grad_bias_V += dlogits_CV.sum(0)
                dlogits_CV = dlogits_CV.to(hidden_CD.dtype)
                if grad_hidden_ND is not None:
                    grad_hidden_CD = torch.empty_like(hidden_CD, dtype=head.sum_dtype)
                    add_product(grad_hidden_CD, dlogits_CV, operand_VD, beta=0)
                    grad_hidden_ND[rows_C] = grad_hidden_CD.to(grad_hidden_ND.dtype)
                if grad_weight_VD is not None:
                    add_product(grad_weight_VD, dlogits_CV.T, hidden_CD)
                del hidden_CD, dlogits_CV  # or they would be held while the next ones are made
        grads = (grad_hidden_ND, hidden_ND), (grad_weight_VD, weight_VD), (grad_bias_V, bias_V)
        return None, *(None if grad is None else grad.to(tensor.dtype) for grad, tensor in grads), *[None] * len(rest)


def add_product(sum_XY: Tensor, left_XZ: Tensor, right_ZY: Tensor, beta: float = 1) -> None:
    """``sum = beta * sum + left @ right`` in the dtype of ``sum``."""
    if sum_XY.dtype == left_XZ.dtype:
        sum_XY.addmm_(left_XZ, right_ZY, beta=beta)
    else:  # CUDA only
        torch.addmm(sum_XY, left_XZ, right_ZY, beta=beta, out_dtype=sum_XY.dtype, out=sum_XY)


def check_head(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, softcap: float | None, base: bool = False) -> torch.dtype:
    """Checks the arguments of a head; returns the dtype that its matrix product takes its operands in.

    Raises:
        ValueError: For shapes or dtypes that do not fit together, or a soft-cap out of range; it names the arguments of the base with ``base``.
    """
    names = "`base_hidden_NE`, `base_weight_VE` and `base_bias_V`" if base else "`hidden_ND`, `weight_VD` and `bias_V`"
    tensors = [hidden_ND, weight_VD] if bias_V is None else [hidden_ND, weight_VD, bias_V]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if weight_VD.dim() != 2 or shapes != [(*shapes[0][:1], shapes[1][1]), shapes[1], shapes[1][:1]][: len(shapes)]:
        raise ValueError(f"{names} must be {'[N, E], [V, E]' if base else '[N, D], [V, D]'} and [V], got {shapes}.")
    dtypes = {autocast_dtype(tensor) for tensor in tensors}
    if len(dtypes) > 1:
        raise ValueError(f"{names} must have one dtype, got {[tensor.dtype for tensor in tensors]}; cast them or use autocast.")
    check_in("base_softcap" if base else "softcap", softcap, "(0, inf)", "None is no soft-cap")
    return dtypes.pop()


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a matrix product takes ``tensor`` in."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64 else tensor.dtype
