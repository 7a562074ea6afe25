"""Per-token KL divergence of two language-model heads without the logits of either: plain torch, for CPU and CUDA.

Shape suffixes: N tokens, V vocabulary, D and E widths of the two models, C tokens of one chunk.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_talr.kernels.chunked_head import Chunk, ChunkedHead, HeadTensors, TokenScores, check_head
from lit_talr.utils.errors import check_least

LEFT_OUT = -1e30
"""The logit of a token that is left out: its probability is exactly 0, and its differences are finite."""
CHUNK_TOKENS = 256
"""Default tokens of a chunk."""


class TokenKL(NamedTuple):
    """Per-token results of ``token_kl``."""

    kl: Tensor  # [N] nats, at least 0 but for rounding; carries gradient
    agreement: Tensor  # [N] bool, whether both have the same most likely token


def token_kl(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    base_hidden_NE: Tensor,
    base_weight_VE: Tensor,
    bias_V: Tensor | None = None,
    base_bias_V: Tensor | None = None,
    labels_N: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    base_softcap: float | None = None,
    base_scale: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenKL:
    """KL(base || model) of the next token, exact over the vocabulary, or over all tokens but one. Equals this, but never holds logits ``[N, V]`` of either::

        logits = scale * F.linear(hidden_ND, weight_VD, bias_V).float()  # then the soft-cap, as in token_nll; the base model's likewise
        if labels_N is not None:  # 0 * log 0 is 0 below
            logits, base_logits = (values.scatter(1, labels_N[:, None], -inf) for values in (logits, base_logits))
        p, p_0 = logits.softmax(1), base_logits.detach().softmax(1)
        kl = (p_0 * (p_0.log() - p.log())).sum(1)
        agreement = logits.argmax(1) == base_logits.argmax(1)

    The terms summed are ``p_0 * (exp(d) - 1 - d)`` with d = log p - log p_0. The sum is the same, since both p sum to 1, and no term is below 0: in float32
    the formula above loses a divergence below 1e-6 in the rounding of its terms. The gradient of the logits is ``p - p_0``; the base model gets none.

    Forward and backward go through the tokens in chunks, and backward recomputes each. At most five matrices ``[C, V]`` and a mask are held at a time;
    between forward and backward only the arguments are kept. Sums over the vocabulary and over tokens are float32, those of float64 arguments float64.
    Each head rounds its operands by its own dtype in the way of ``token_nll``, half precision and autocast included.

    Args:
        hidden_ND: ``[N, D]``, the decoder's output; carries gradient. N may be 0.
        weight_VD: ``[V, D]``, the head's weight; carries gradient.
        base_hidden_NE: ``[N, E]``, the output of the base model's decoder for the same tokens.
        base_weight_VE: ``[V, E]``, the weight of the base model's head.
        bias_V: ``[V]``, the head's bias; carries gradient.
        base_bias_V: ``[V]``, the bias of the base model's head.
        labels_N: ``[N]`` int64 in [0, V), a token of both distributions that is left out; the others' probabilities are renormalised.
        softcap: Bound of the logits, above 0; ``None`` for none.
        scale: Factor of the logits, before the soft-cap.
        base_softcap: Bound of the base model's logits.
        base_scale: Factor of the base model's logits.
        chunk_tokens: Tokens whose logits are held at a time, at least 1.

    Returns:
        ``kl`` ``[N]`` float32 (float64 where the model's arguments are); its incoming gradient may differ from token to token, and its gradients cannot be
        differentiated again. ``agreement`` ``[N]`` bool.

    Raises:
        ValueError: For shapes or dtypes that do not fit together, vocabularies of different sizes, or an option out of range.
    """
    dtypes = check_head(hidden_ND, weight_VD, bias_V, softcap), check_head(base_hidden_NE, base_weight_VE, base_bias_V, base_softcap, base=True)
    if len(hidden_ND) != len(base_hidden_NE) or len(weight_VD) != len(base_weight_VE):
        shapes = [tuple(tensor.shape) for tensor in (hidden_ND, weight_VD, base_hidden_NE, base_weight_VE)]
        raise ValueError(f"`hidden_ND`, `weight_VD`, `base_hidden_NE` and `base_weight_VE` must have the same N and V, got {shapes}.")
    if labels_N is not None and labels_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"`labels_N` must be [N] for `hidden_ND` [N, D], got {tuple(labels_N.shape)} for {tuple(hidden_ND.shape)}.")
    check_least("chunk_tokens", chunk_tokens, 1)
    heads = ChunkedHead(dtypes[0], softcap, scale, chunk_tokens), ChunkedHead(dtypes[1], base_softcap, base_scale, chunk_tokens)
    base = base_hidden_NE.detach(), base_weight_VE.detach(), None if base_bias_V is None else base_bias_V.detach()
    return TokenKL(*TokenScores.apply(Scorer(*heads), hidden_ND, weight_VD, bias_V, *base, labels_N))


class Scorer(NamedTuple):
    """How ``TokenScores`` computes the divergence, given the base model's tensors and the labels."""

    head: ChunkedHead
    base_head: ChunkedHead

    def forward(self, model: HeadTensors, *base: Any) -> tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]:
        kl_N = model[0].new_zeros(len(model[0]), dtype=self.head.sum_dtype)
        agreement_N = torch.zeros_like(kl_N, dtype=torch.bool)
        for rows_C, _, spare_CV, log_CV, base_CV in self.log_probabilities(model, *base):
            agreement_N[rows_C] = log_CV.argmax(1) == base_CV.argmax(1)
            kl_N[rows_C] = _divergence(log_CV, base_CV, spare_CV)
            del log_CV, base_CV  # or they would be held while the next ones are made
        return (kl_N, agreement_N), ()

    def logit_gradients(self, grad_N: Tensor, model: HeadTensors, *base: Any) -> Iterator[Chunk]:
        for rows_C, hidden_CD, logits_CV, log_CV, base_CV in self.log_probabilities(model, *base):
            dlogits_CV = log_CV.exp_().sub_(base_CV.exp_()).mul_(grad_N[rows_C, None])
            if self.head.softcap is not None:
                dlogits_CV.mul_(logits_CV.div_(self.head.softcap).square_().neg_().add_(1))
            yield rows_C, hidden_CD, dlogits_CV
            del log_CV, base_CV, dlogits_CV

    def log_probabilities(
        self, model: HeadTensors, hidden_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, labels_N: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Yields rows, hidden states, logits and log-probabilities of the model, log-probabilities of the base; all may be overwritten."""
        rows = torch.arange(len(hidden_NE), device=hidden_NE.device)
        base_chunks = self.base_head.chunks((hidden_NE, self.base_head.operand(weight_VE), bias_V), rows)
        for (rows_C, hidden_CD, logits_CV), (_, _, base_CV) in zip(self.head.chunks(model, rows), base_chunks, strict=True):
            if labels_N is None:
                yield rows_C, hidden_CD, logits_CV, logits_CV.log_softmax(1), base_CV.log_softmax(1).to(logits_CV.dtype)
                continue
            labels_C = labels_N[rows_C, None]
            log_CV, base_log_CV = (values_CV.scatter_(1, labels_C, LEFT_OUT).log_softmax(1).to(logits_CV.dtype) for values_CV in (logits_CV, base_CV))
            yield rows_C, hidden_CD, logits_CV.scatter_(1, labels_C, 0), log_CV, base_log_CV  # 0: the soft-cap's slope stays finite there


def _divergence(log_CV: Tensor, base_CV: Tensor, spare_CV: Tensor) -> Tensor:
    """``[C]`` sums of ``p_0 * (exp(d) - 1 - d)``; all arguments are overwritten."""
    d_CV = torch.sub(log_CV, base_CV, out=spare_CV)
    p_CV, base_p_CV = log_CV.exp_(), base_CV.exp_()
    risen_CV = d_CV > 1
    change_CV = d_CV.clamp(max=1).expm1_().mul_(base_p_CV)
    torch.where(risen_CV, p_CV.sub_(base_p_CV), change_CV, out=p_CV)  # where exp(d) could overflow, p - p_0 cancels nothing
    return p_CV.addcmul_(base_p_CV, d_CV, value=-1).sum(1)
