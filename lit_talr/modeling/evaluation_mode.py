"""Evaluation mode inside a block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switches dropout off, and restores each module's own mode afterwards.

    Compiled layers run uncompiled, since a cache or missing adapters would each trigger a recompilation.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, training in modes:
            module.training = training
