"""Configurations of other programs are answered with the options here."""

import re
from pathlib import Path

import pytest

from lit_talr.cli.fit_parser import fit_parser
from lit_talr.cli.foreign import ANSWERS
from tests.cli.test_renamed import FIT, refusal


def test_a_file_of_trl_is_translated_as_a_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "trl.yaml"
    file.write_text("model_name_or_path: x\nlearning_rate: 1.0e-5\nother: 3\n")
    assert refusal(capsys, "-c", str(file)) == f"{file}: `model_name_or_path` is `model.pretrained` here; `learning_rate` is `model.optimizer.lr` here."


def test_an_old_lightnings_option_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("trainer: {gpus: 1}\n")
    assert refusal(capsys, "-c", str(file)) == f"{file}: `trainer.gpus` is `trainer.devices` here."


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("learning_rate", "`learning_rate` is `model.optimizer.lr` here."),
        (
            "gradient_accumulation_steps",
            "`gradient_accumulation_steps` follows here from `data.batching.batch_size`, the examples of an optimizer step: "
            "those of a micro-batch x micro-batches x devices.",
        ),
    ],
)
def test_a_typed_name(capsys: pytest.CaptureFixture[str], name: str, sentence: str) -> None:
    assert refusal(capsys, f"--{name}", "1") == sentence


def test_a_key_that_is_nobodys_is_named_with_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nobodys: 3\n")
    assert refusal(capsys, "-c", str(file)).startswith(f"{file}: there is no option `nobodys`; a file has the keys trainer, model, data")


def test_the_options_here_exist() -> None:
    parse = fit_parser()
    values = {"trainer.precision": "32-true", "model.schedule": "Cosine", "trainer.logger": "true", "model.compute.gradient_checkpointing": "true"}
    values |= {"data.batching.packing": "false", "model.lora.targets": "[q_proj]", "data.encoding.too_long": "drop", "model.schedule.warmup_steps": "0"}
    options = sorted({option for answer in ANSWERS.values() for option in re.findall(r"`([\w.]+)(?:: [\w-]+)?`", answer)})
    parse([*FIT[1:], "-c", "configs/lora.yaml", *(word for option in options for word in (f"--{option}", values.get(option, "1")))])
