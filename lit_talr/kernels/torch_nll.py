"""Per-token NLL of a language-model head by torch's own ``linear_cross_entropy``, from torch 2.13 on. Shape suffixes as in ``token_nll``."""

import torch
from torch import Tensor
from torch.nn import functional

from lit_talr.kernels.token_nll import TokenNLL, check_arguments, token_nll


def torch_nll(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_tokens: int = 512,
    all_supervised: bool = False,
    correct: bool = False,
    entropy: bool = False,
    top_entropy: bool = False,
) -> TokenNLL:
    """Computes the NLL of ``token_nll`` for float32 and float64 operands, without soft-cap.

    Raises:
        ValueError: As ``token_nll``, and for what torch's function lacks: a soft-cap, entropies, ``correct``, float32 NLLs of half-precision operands; or for a
            torch without this function.
    """
    dtype, rows = check_arguments(hidden_ND, weight_VD, labels_N, bias_V, softcap, all_supervised)
    if not hasattr(functional, "linear_cross_entropy"):
        raise ValueError(f"torch {torch.__version__} has no `linear_cross_entropy`; install torch 2.13 or newer, or use the head `own`.")
    if softcap is not None or correct or entropy or top_entropy:
        raise ValueError("torch's `linear_cross_entropy` has no soft-cap, and gives neither `correct` nor entropies; use the head `own`.")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"torch's `linear_cross_entropy` rounds the NLLs of {dtype} operands, autocast's too; use the head `own`, or float32.")
    if not len(rows):  # torch's function refuses no tokens
        return token_nll(hidden_ND, weight_VD, labels_N, bias_V, scale=scale)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_tokens)
    scaled = (hidden_ND[rows], bias_V) if scale == 1 else (hidden_ND[rows] * scale, None if bias_V is None else bias_V * scale)
    nll_C = functional.linear_cross_entropy(scaled[0], weight_VD, labels_N[rows], linear_bias=scaled[1], reduction="none", options=options)
    return TokenNLL(nll_C.new_zeros(len(hidden_ND)).index_copy(0, rows, nll_C))
