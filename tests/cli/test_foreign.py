"""Configurations of other programs are answered with the options here."""

from pathlib import Path

import pytest

from lit_talr.cli.fit_parser import fit_parser
from lit_talr.cli.foreign import OPTIONS
from tests.cli.test_renamed import FIT, refusal


def test_a_file_of_trl_is_translated_as_a_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "trl.yaml"
    file.write_text("model_name_or_path: x\nlearning_rate: 1.0e-5\nother: 3\n")
    assert refusal(capsys, "-c", str(file)) == f"{file}: `model_name_or_path` is `model.pretrained` here; `learning_rate` is `model.optimizer.lr` here."


def test_an_old_lightnings_option_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("trainer: {gpus: 1}\n")
    assert refusal(capsys, "-c", str(file)) == f"{file}: `trainer.gpus` is `trainer.devices` here."


def test_a_typed_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "--learning_rate", "1") == "`learning_rate` is `model.optimizer.lr` here."


def test_a_key_that_is_nobodys_is_named_with_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nobodys: 3\n")
    assert refusal(capsys, "-c", str(file)).startswith(f"{file}: there is no option `nobodys`; a file has the keys trainer, model, data")


def test_the_options_here_exist() -> None:
    parse = fit_parser()
    values = {"trainer.precision": "32-true", "model.schedule": "Cosine", "trainer.logger": "true", "model.compute.gradient_checkpointing": "true"}
    for option in {option for option in OPTIONS.values() if not option.startswith("a file")}:
        parse([*FIT[1:], "-c", "configs/lora.yaml", f"--{option}", values.get(option, "1")])
