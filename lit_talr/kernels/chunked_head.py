"""A language-model head whose logits exist for one chunk of tokens at a time, and the gradients that are summed over the chunks.

Shape suffixes: N tokens, V vocabulary, D width, C tokens of one chunk, X rows of a buffer.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lit_talr.utils.errors import check_in


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

    def slices(self, hidden_ND: Tensor, rows: Tensor, buffer_XV: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields rows, hidden states and a slice of the buffer for each chunk; a buffer shorter than ``rows`` is reused for every chunk."""
        for start in range(0, len(rows), self.chunk_tokens):
            rows_C = rows[start : start + self.chunk_tokens]
            first = start if len(buffer_XV) == len(rows) else 0
            yield rows_C, self.operand(hidden_ND[rows_C]), buffer_XV[first : first + len(rows_C)]

    def chunks(
        self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, rows: Tensor, buffer_NV: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields rows, hidden states and logits of each chunk; the logits may be overwritten, and without a buffer the next chunk overwrites them."""
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


class HeadGradients:
    """Sums the gradients of a head's hidden states, weight and bias over its chunks; those that are not needed stay ``None``."""

    def __init__(self, head: ChunkedHead, needed: tuple[bool, ...], hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> None:
        self.head = head
        self.dtypes = hidden_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype
        self.hidden_ND = torch.zeros_like(hidden_ND) if needed[0] else None
        self.weight_VD = torch.zeros_like(weight_VD, dtype=head.sum_dtype) if needed[1] else None
        self.bias_V = torch.zeros_like(bias_V, dtype=head.sum_dtype) if bias_V is not None and needed[2] else None

    def add(self, rows_C: Tensor, hidden_CD: Tensor, weight_VD: Tensor, dlogits_CV: Tensor, slope_CV: Tensor | None) -> None:
        """Adds one chunk; ``dlogits_CV``, the gradient of the soft-capped logits, and the soft-cap's slope may be overwritten."""
        if slope_CV is not None:
            dlogits_CV.mul_(slope_CV)
        if self.head.scale != 1:
            dlogits_CV.mul_(self.head.scale)
        if self.bias_V is not None:
            self.bias_V += dlogits_CV.sum(0)
        dlogits_CV = dlogits_CV.to(hidden_CD.dtype)
        if self.hidden_ND is not None:
            grad_hidden_CD = torch.empty_like(hidden_CD, dtype=self.head.sum_dtype)
            add_product(grad_hidden_CD, dlogits_CV, weight_VD, beta=0)
            self.hidden_ND[rows_C] = grad_hidden_CD.to(self.hidden_ND.dtype)
        if self.weight_VD is not None:
            add_product(self.weight_VD, dlogits_CV.T, hidden_CD)

    def rounded(self) -> list[Tensor | None]:
        """The three gradients, each in the dtype of its tensor."""
        grads = self.hidden_ND, self.weight_VD, self.bias_V
        return [None if grad is None else grad.to(dtype) for grad, dtype in zip(grads, self.dtypes, strict=True)]


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
