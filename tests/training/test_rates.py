import logging

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from lit_talr.training.rates import say_high_rate

WEIGHTS = [torch.zeros(1, requires_grad=True)]


@pytest.mark.parametrize(
    ("optimizer", "end"),
    [
        (AdamW(WEIGHTS, 5.0), "give a smaller one; did you mean 5e-6?"),
        (AdamW([{"params": WEIGHTS, "lr": 0.2}], 1e-3), "give a smaller one."),
        (AdamW(WEIGHTS, 0.1), None),
        (SGD(WEIGHTS, 5.0), None),
    ],
)
def test_a_rate_of_adam_that_is_rarely_meant_is_said(optimizer: Optimizer, end: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_talr"):
        say_high_rate(optimizer)
    said = [record.getMessage() for record in caplog.records]
    assert [(text.startswith("`model.optimizer.lr` "), text.endswith(end or "")) for text in said] == ([(True, True)] if end else [])
