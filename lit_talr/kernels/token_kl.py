"""Per-token divergence of two language-model heads without the logits of either: plain torch, for CPU and CUDA.

Shape suffixes: N tokens, V vocabulary, D and E widths of the two models, C tokens of one chunk.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_talr.kernels.token_nll import _add_product, _autocast_dtype, _Head


class TokenKL(NamedTuple):
    """What ``token_kl`` returns."""

    kl: Tensor  # [N] nats, at least 0 but for rounding; carries gradient
    agreement: Tensor  # [N] bool, whether both have the same most likely token


def token_kl(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    base_hidden_NE: Tensor,
    base_weight_VE: Tensor,
    bias_V: Tensor | None = None,
    base_bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    base_softcap: float | None = None,
    base_scale: float = 1.0,
    chunk_tokens: int = 256,
) -> TokenKL:
    """KL(reference || model) of the next token, exact over the vocabulary, as this does, without ever holding logits ``[N, V]`` of either::

        logits = scale * F.linear(hidden_ND, weight_VD, bias_V).float()  # then the soft-cap, as in token_nll; the reference's likewise
        p, p_0 = logits.softmax(1), reference_logits.detach().softmax(1)
        kl = (p_0 * (p_0.log() - p.log())).sum(1)
        agreement = logits.argmax(1) == reference_logits.argmax(1)

    Summed is ``p_0 * (exp(d) - 1 - d)`` with d = log p - log p_0, which is the same (both p sum to 1) and has no term below 0: in float32 the formula above
    loses a divergence below 1e-6 in the rounding of its terms. The gradient to the logits is ``p - p_0``; the reference gets none.

    Forward and backward go through the tokens in chunks, backward recomputing each; at most five matrices ``[C, V]`` and a mask are held at a time, and
    kept between forward and backward are the arguments alone. Sums over the vocabulary and over tokens are float32, those of float64 arguments float64;
    how operands are rounded, half precision and autocast included, is ``token_nll``'s way, for each of the heads by its own dtype.

    Args:
        hidden_ND: ``[N, D]``, the decoder's output; carries gradient. N may be 0.
        weight_VD: ``[V, D]``, the head's weight; carries gradient.
        base_hidden_NE: ``[N, E]``, the output of the reference's decoder for the same tokens.
        base_weight_VE: ``[V, E]``, the weight of the reference's head.
        bias_V: ``[V]``, the head's bias; carries gradient.
        base_bias_V: ``[V]``, that of the reference.
        softcap: Bound of the logits, above 0; ``None`` for none.
        scale: Factor of the logits, before the soft-cap.
        base_softcap: Bound of the reference's logits.
        base_scale: Factor of the reference's logits.
        chunk_tokens: Tokens whose logits are held at a time, at least 1.

    Returns:
        ``kl`` ``[N]`` float32 (float64 where the model's arguments are), whose incoming gradient may differ from token to token; its gradients cannot be
        differentiated again. ``agreement`` ``[N]`` bool.

    Raises:
        ValueError: For shapes or dtypes that do not fit together, vocabularies of different sizes, or an option out of range.
    """
    own = _check("`hidden_ND`, `weight_VD` and `bias_V`", hidden_ND, weight_VD, bias_V)
    other = _check("`base_hidden_NE`, `base_weight_VE` and `base_bias_V`", base_hidden_NE, base_weight_VE, base_bias_V)
    if len(hidden_ND) != len(base_hidden_NE) or len(weight_VD) != len(base_weight_VE):
        shapes = [tuple(tensor.shape) for tensor in (hidden_ND, weight_VD, base_hidden_NE, base_weight_VE)]
        raise ValueError(f"`hidden_ND`, `weight_VD`, `base_hidden_NE` and `base_weight_VE` must have the same N and V, got {shapes}.")
    if chunk_tokens < 1:
        raise ValueError(f"`chunk_tokens` must be at least 1, got {chunk_tokens}.")
    for name, value in (("softcap", softcap), ("base_softcap", base_softcap)):
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be above 0, or None for no soft-cap, got {value}.")
    heads = _Head(own, softcap, scale, chunk_tokens), _Head(other, base_softcap, base_scale, chunk_tokens)
    reference = base_hidden_NE.detach(), base_weight_VE.detach(), None if base_bias_V is None else base_bias_V.detach()
    return TokenKL(*_TokenKL.apply(hidden_ND, weight_VD, bias_V, *reference, heads))


def _check(names: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> torch.dtype:
    """What the matrix product of one head takes its operands as."""
    tensors = [hidden, weight] if bias is None else [hidden, weight, bias]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if hidden.dim() != 2 or weight.dim() != 2 or shapes != [(len(hidden), weight.shape[1]), tuple(weight.shape), (len(weight),)][: len(shapes)]:
        raise ValueError(f"{names} must be [N, D], [V, D] and [V], got {shapes}.")
    dtypes = {_autocast_dtype(tensor) for tensor in tensors}
    if len(dtypes) > 1:
        raise ValueError(f"{names} must have one dtype, got {[tensor.dtype for tensor in tensors]}; cast them or use autocast.")
    return dtypes.pop()


Chunk = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Rows, hidden states, logits and log-probabilities of the model, log-probabilities of the reference; all may be overwritten."""


def _chunks(heads: tuple[_Head, _Head], own: tuple[Tensor, Tensor, Tensor | None], reference: tuple[Tensor, Tensor, Tensor | None]) -> Iterator[Chunk]:
    rows = torch.arange(len(own[0]), device=own[0].device)
    for (rows_C, hidden_CD, logits_CV), (_, _, reference_CV) in zip(heads[0].chunks(*own, rows), heads[1].chunks(*reference, rows), strict=True):
        yield rows_C, hidden_CD, logits_CV, logits_CV.log_softmax(1), reference_CV.log_softmax(1).to(logits_CV.dtype)


class _TokenKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        base_hidden_NE: Tensor,
        base_weight_VE: Tensor,
        base_bias_V: Tensor | None,
        heads: tuple[_Head, _Head],
    ) -> tuple[Tensor, Tensor]:
        kl_N = hidden_ND.new_zeros(len(hidden_ND), dtype=heads[0].sum_dtype)
        agreement_N = torch.zeros_like(kl_N, dtype=torch.bool)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            own = hidden_ND, heads[0].operand(weight_VD), bias_V
            reference = base_hidden_NE, heads[1].operand(base_weight_VE), base_bias_V
            for rows_C, _, spare_CV, log_CV, reference_CV in _chunks(heads, own, reference):
                agreement_N[rows_C] = log_CV.argmax(1) == reference_CV.argmax(1)
                kl_N[rows_C] = _divergence(log_CV, reference_CV, spare_CV)
                del log_CV, reference_CV  # or they would be held while the next ones are made
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, base_hidden_NE, base_weight_VE, base_bias_V)
        ctx.heads = heads
        ctx.mark_non_differentiable(agreement_N)
        return kl_N, agreement_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, *reference = ctx.saved_tensors
        head, reference_head = ctx.heads
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_hidden_ND = torch.zeros_like(hidden_ND) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=head.sum_dtype) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=head.sum_dtype) if needs_bias else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            operand_VD = head.operand(weight_VD)
            others = reference[0], reference_head.operand(reference[1]), reference[2]
            for rows_C, hidden_CD, logits_CV, log_CV, reference_CV in _chunks(ctx.heads, (hidden_ND, operand_VD, bias_V), others):
                dlogits_CV = log_CV.exp_().sub_(reference_CV.exp_()).mul_(grad_N[rows_C, None])
                if head.softcap is not None:
                    dlogits_CV.mul_(logits_CV.div_(head.softcap).square_().neg_().add_(1))
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
                del log_CV, reference_CV, dlogits_CV
        grads = (grad_hidden_ND, hidden_ND), (grad_weight_VD, weight_VD), (grad_bias_V, bias_V)
        return *(None if grad is None else grad.to(tensor.dtype) for grad, tensor in grads), *[None] * 4


def _divergence(log_CV: Tensor, reference_CV: Tensor, spare_CV: Tensor) -> Tensor:
    """``[C]`` sums of ``p_0 * (exp(d) - 1 - d)``; all arguments are overwritten."""
    d_CV = torch.sub(log_CV, reference_CV, out=spare_CV)
    p_CV, reference_p_CV = log_CV.exp_(), reference_CV.exp_()
    risen_CV = d_CV > 1
    change_CV = d_CV.clamp(max=1).expm1_().mul_(reference_p_CV)
    torch.where(risen_CV, p_CV.sub_(reference_p_CV), change_CV, out=p_CV)  # where exp(d) could overflow, p - p_0 cancels nothing
    return p_CV.addcmul_(reference_p_CV, d_CV, value=-1).sum(1)
