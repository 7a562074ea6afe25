"""How the program ends."""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from lit_talr.__main__ import leave_errors_to_commands, main
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
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
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


def test_a_thread_that_hands_its_error_on_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorBoard's does where it cannot write: the command fails by the same error, in a sentence."""
    printed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: printed.append(failure.exc_value))
    leave_errors_to_commands()
    own, handed_on = ValueError("its own"), OSError("handed on")

    def fail(error: Exception, hands_on: bool) -> None:
        if hands_on:
            threading.current_thread().exception = error  # type: ignore[attr-defined]
        raise error

    for error in (own, handed_on):
        thread = threading.Thread(target=fail, args=(error, error is handed_on))
        thread.start()
        thread.join()
    assert printed == [own]
