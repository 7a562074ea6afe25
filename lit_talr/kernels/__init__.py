"""Per-token numbers of a language-model head, computed without keeping its logits.

``token_nll.token_nll`` is the contract: its docstring says what a kernel promises. Another backend has the same signature (but for ``chunk_tokens`` and
``kept_bytes``), is chosen by ``model.head_kernel``, refuses with a ``ValueError`` what it cannot do, and joins ``KERNELS`` in
``tests/kernels/test_token_nll.py``, which every kernel must pass: the values and gradients of the naive formula, or a refusal.
"""
