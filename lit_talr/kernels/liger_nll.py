"""Per-token NLL of a language-model head by Liger's fused function, for NVIDIA Hopper GPUs (``pip install lit-talr[liger]``).

On a CPU Liger computes the same with plain torch, more slowly than ``token_nll``; that is for tests only. Shape suffixes as in ``token_nll``.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from lit_talr.kernels.token_nll import TokenNLL, check_arguments, token_nll


def liger_nll(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    all_supervised: bool = False,
    correct: bool = False,
    entropy: bool = False,
    top_entropy: bool = False,
) -> TokenNLL:
    """Computes the NLL of ``token_nll`` for bf16 operands (on a CPU also float32 and float16), without bias and soft-cap.

    Gradients are summed over tokens in the operands' dtype, under autocast too; differentiating them again is not refused.

    Raises:
        ValueError: As ``token_nll``, and for what Liger's function lacks: a bias, a soft-cap, ``correct``, entropies that are not rounded, operands that are
            not bf16, GPUs other than Hopper; or if Liger is not installed.
    """
    dtype, rows = check_arguments(hidden_ND, weight_VD, labels_N, bias_V, softcap, all_supervised)
    if find_spec("liger_kernel") is None:
        raise ValueError("Liger is not installed: `pip install lit-talr[liger]`, or use the head `own`.")
    if bias_V is not None or softcap is not None or correct or entropy or top_entropy:
        raise ValueError("Liger's head has neither bias nor soft-cap, and gives neither `correct` nor exact entropies; use the head `own`.")
    if hidden_ND.is_cuda and torch.cuda.get_device_capability(hidden_ND.device) != (9, 0):
        raise ValueError("Liger's head is for Hopper GPUs (H100, H200); use the head `own`.")
    if dtype == torch.float64 or (hidden_ND.is_cuda and dtype != torch.bfloat16):
        raise ValueError(f"Liger's head does not take {dtype} operands here; use the head `own`, or `trainer.precision: bf16-mixed`.")
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import LigerFusedLinearScaledCrossEntropyFunction

    if not len(rows):  # Liger's function refuses no tokens
        return token_nll(hidden_ND, weight_VD, labels_N, scale=scale)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        nll_C = LigerFusedLinearScaledCrossEntropyFunction.apply(hidden_ND[rows].to(dtype), weight_VD.to(dtype), labels_N[rows], 1 / scale)
    return TokenNLL(nll_C.new_zeros(len(hidden_ND)).index_copy(0, rows, nll_C))
