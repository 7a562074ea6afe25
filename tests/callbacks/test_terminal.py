"""Remarks of the terminal."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_talr.callbacks.terminal import Summary


def test_a_run_that_is_complete_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(global_step=6, is_global_zero=True, callback_metrics={})
    module: Any = SimpleNamespace(loaded_step=6, num_steps=3)
    Summary().on_fit_end(trainer, module)
    assert capsys.readouterr().err.startswith("Nothing was left to train: the run has 6 steps, and 3 are asked for; to train on, raise `trainer.max_steps`")


@pytest.mark.parametrize(
    ("step", "way_on"),
    [
        (2, "continues from the newest checkpoint, or starts again if there is none."),
        (3, "writes what the run lacks, such as its export"),
    ],
)
def test_a_run_that_is_stopped_says_what_its_line_does_next(capsys: pytest.CaptureFixture[str], step: int, way_on: str) -> None:
    trainer: Any = SimpleNamespace(global_step=step, is_global_zero=True, state=SimpleNamespace(fn="fit"))
    module: Any = SimpleNamespace(num_steps=3)
    Summary().on_exception(trainer, module, SIGTERMException())
    assert capsys.readouterr().err.startswith(f"Stopped after step {step}; the same line with `--ckpt_path auto` {way_on}")
