"""What is found in the words of a command line before they are parsed."""

import logging
from pathlib import Path

import pytest

from lit_talr.cli.words import forget_callbacks, join_numbers, refuse_repeated_keys, say_lacking


def test_a_negative_number_belongs_to_its_option() -> None:
    assert join_numbers(["--lr", "-1e-3", "-c", "x", "--a=b", "-1", "--n", "-.5", "--flag", "-c"]) == [
        *("--lr=-1e-3", "-c", "x", "--a=b", "-1", "--n=-.5", "--flag", "-c")
    ]


def test_a_repeated_key_in_a_typed_value_is_refused() -> None:
    refuse_repeated_keys(["--model.adapter", "{r: 8, alpha: 16}", "--x={", "--data.train", "a: b: c"])
    with pytest.raises(ValueError, match="`--model.adapter`: the key `r` stands in line 1 and again"):
        refuse_repeated_keys(["fit", "--model.adapter={r: 8, r: 16}"])


def test_callbacks_that_are_replaced_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lit_talr"), "propagate", True)
    (tmp_path / "mine.yaml").write_text("trainer:\n  callbacks:\n    - class_path: lit_talr.callbacks.Summary\n    - Drift\n")
    (tmp_path / "more.yaml").write_text("trainer:\n  callbacks+:\n    - class_path: Drift\n")
    say_lacking(["fit", "-c", "configs/base.yaml", f"--config={tmp_path / 'more.yaml'}", "--trainer.callbacks+=[Drift]"])
    assert not caplog.text
    say_lacking(["fit", "-c", "configs/base.yaml", "-c", str(tmp_path / "mine.yaml")])
    assert caplog.messages == [
        f"{tmp_path / 'mine.yaml'}: `callbacks` replaces those before it, without TokenProgressBar, TokenProbability, VisibleUpdate, DomainScore, HFExport, "
        "WholeCheckpoint; so the run has no export and no checkpoints that are whole wherever it is killed; to add to them, write `callbacks+`."
    ]
    caplog.clear()
    say_lacking(["fit", "-c", str(tmp_path / "mine.yaml"), "--trainer.callbacks", "Drift"])
    assert caplog.messages == [
        "--trainer.callbacks: `callbacks` replaces those before it, without Summary; so the run has no metrics.json; to add to them, write `callbacks+`."
    ]
    caplog.clear()
    say_lacking(["test", "-c", str(tmp_path / "mine.yaml")])
    say_lacking(["fit", "-c", str(tmp_path / "mine.yaml")])
    assert caplog.messages == [
        "`trainer.callbacks` is without HFExport, WholeCheckpoint; so the run has no export and no checkpoints that are whole wherever it is killed; "
        "begin with -c configs/base.yaml, which lists them."
    ]


def test_callbacks_are_forgotten_before_a_list_that_replaces_them() -> None:
    words = ["fit", "-c", "a.yaml", "--trainer.callbacks", "[Drift]", "--trainer.callbacks+=Timer", "--trainer.callbacks.duration=1"]
    assert forget_callbacks(words) == [*words[:3], "--trainer.callbacks=null", *words[3:]]
