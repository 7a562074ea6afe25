"""Remarks of the terminal."""

from types import SimpleNamespace
from typing import Any

import pytest

from lit_talr.callbacks.terminal import Summary


def test_a_run_that_is_complete_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(global_step=6, is_global_zero=True, callback_metrics={})
    module: Any = SimpleNamespace(loaded_step=6, num_steps=3)
    Summary().on_fit_end(trainer, module)
    assert capsys.readouterr().err.startswith("Nothing was left to train: the run has 6 steps, and 3 are asked for; to train on, raise `trainer.max_steps`")
