"""The head that the kernels share; its values and gradients are tested through ``token_nll`` and ``token_kl``."""

from typing import Any

import pytest
import torch

from lit_talr.kernels.chunked_head import ChunkedHead, check_head

HIDDEN, WEIGHT, BIAS = torch.randn(20, 6), torch.randn(11, 6), torch.randn(11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_ND": torch.randn(2, 10, 6)}, r"`hidden_ND`, `weight_VD` and `bias_V` must be \[N, D\], \[V, D\] and \[V\], got \[\(2, 10, 6\), \(11, 6\)"),
        ({"hidden_ND": torch.randn(20, 7)}, r"must be \[N, D\]"),
        ({"weight_VD": torch.randn(11)}, r"must be \[N, D\]"),
        ({"bias_V": torch.zeros(3)}, r"must be \[N, D\]"),
        ({"bias_V": torch.zeros(3), "base": True}, r"`base_hidden_NE`, `base_weight_VE` and `base_bias_V` must be \[N, E\], \[V, E\] and \[V\]"),
        ({"hidden_ND": torch.randn(20, 6).bfloat16()}, r"must have one dtype, got \[torch.bfloat16, torch.float32, torch.float32\]; cast them or use autocast"),
        ({"softcap": 0.0}, r"`softcap` must lie in \(0, inf\), got 0.0; None is no soft-cap"),
        ({"softcap": -1.0, "base": True}, "`base_softcap` must lie in"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_head(**{"hidden_ND": HIDDEN, "weight_VD": WEIGHT, "bias_V": BIAS, "softcap": None} | changes)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_chunks_share_a_buffer_unless_it_holds_all_rows(softcap: float | None) -> None:
    head, rows = ChunkedHead(torch.float32, softcap, 0.5, chunk_tokens=8), torch.arange(1, 20)
    logits = 0.5 * (HIDDEN[rows] @ WEIGHT.T + BIAS)
    expected = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    chunks = [(logits_CV.data_ptr(), logits_CV.clone()) for _, _, logits_CV in head.chunks((HIDDEN, WEIGHT, BIAS), rows)]
    assert len({address for address, _ in chunks}) == 1
    torch.testing.assert_close(torch.cat([values for _, values in chunks]), expected)
    whole = torch.empty(len(rows), len(WEIGHT))
    assert len(list(head.chunks((HIDDEN, WEIGHT, BIAS), rows, whole))) == 3
    torch.testing.assert_close(whole, expected)
