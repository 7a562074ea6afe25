"""How the program ends."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from lit_talr.__main__ import main
from tests.cli.test_auto import BASE, words
from tests.helpers.fits import write_data


class Interrupt(Callback):
    """Ctrl-C inside a step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        signal.raise_signal(signal.SIGINT)


def test_sigint_exits_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    interrupt = json.dumps({"class_path": "tests.test_main.Interrupt"})
    monkeypatch.setattr(sys, "argv", ["lit-talr", "fit", *words(tmp_path, tmp_path / "run", "--trainer.callbacks+", interrupt)])
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores the signal from then on
    assert end.value.code == 130


def test_an_error_exits_with_1_and_an_end_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, code in (["mrge"], 1), (["fit", "--print_config", "-c", "configs/base.yaml", "--model.tokenizer", "x"], 0):
        monkeypatch.setattr(sys, "argv", ["lit-talr", *typed])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
