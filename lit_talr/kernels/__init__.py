"""Per-token NLL and KL of language-model heads, computed without keeping their logits.

The docstring of ``token_nll.token_nll`` is the contract of a kernel. Another backend has the same signature, except for ``chunk_tokens`` and ``kept_bytes``.
It is selected by ``model.head_kernel``, and refuses with a ``ValueError`` what it does not support. It joins ``KERNELS`` in
``tests/kernels/test_token_nll.py``; every kernel there must give the values and gradients of the naive formula, or refuse.
"""
