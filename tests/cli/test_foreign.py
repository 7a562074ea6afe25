"""Configurations of other programs are answered with the options here."""

import re
from pathlib import Path

import pytest

from lit_talr.cli.fit_parser import fit_parser
from lit_talr.cli.foreign import ANSWERS, answer_to
from lit_talr.cli.parsers import option_names, read_config
from tests.cli.test_renamed import FIT, refusal


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (
            "model_name_or_path: x\nlearning_rate: 1.0e-5\nother: 3\n",
            "`model_name_or_path` is `model.pretrained` here; `learning_rate` is `model.optimizer.lr` here",
        ),
        (
            "optimizer: {class_path: AdamW}\nbatching: {batch_size: 4}\nprecision: 32-true",
            "`optimizer` belongs under `model`; `batching` belongs under `data`, in its `init_args`; `precision` belongs under `trainer`",
        ),
        (
            "trainer: {gpus: 1, max_epochs: 2, schedule: Cosine}\nmodel: {lr: 2.0e-5, loss: TALR}",
            "`trainer.gpus` is `trainer.devices` here; `trainer.schedule` belongs under `model`; `model.lr` is `model.optimizer.lr` here",
        ),
        ("data: {epochs: 2}", "`data.epochs` is `trainer.max_epochs` here"),
    ],
)
def test_a_pasted_file_is_translated_as_a_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, answers: str) -> None:
    file = tmp_path / "pasted.yaml"
    file.write_text(text)
    assert refusal(capsys, "-c", str(file)) == f"{file}: {answers}."


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.learning-rate", "`model.learning_rate` is `model.optimizer.lr` here."),
        ("batching.batch_size", "`batching` belongs under `data`, in its `init_args`."),
        (
            "assistant_only_loss",
            "`assistant_only_loss` is settled here: responses are learned with their end token, never prompts; `data.turns` says which turns of a "
            "conversation, all or the last.",
        ),
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


def test_options_that_exist_are_not_answered() -> None:
    assert not [name for name in option_names(read_config("configs/base.yaml")) if answer_to(name)]


def test_the_options_here_exist() -> None:
    parse = fit_parser()
    values = {"trainer.precision": "32-true", "model.schedule": "Cosine", "trainer.logger": "true", "model.compute.gradient_checkpointing": "true"}
    values |= {"model.optimizer": "torch.optim.AdamW", "model.optimizer.betas": "[0.9,0.999]", "trainer.callbacks": "Summary", "trainer.deterministic": "true"}
    values |= {f"model.compute.{name}": "true" for name in ("compile_layers", "liger_layers")} | {"data.turns": "all", "ckpt_path": "last"}
    values |= {"model.adapter.use_dora": "true", "model.adapter.use_rslora": "true"}
    values |= {"data.batching.packing": "false", "model.adapter.targets": "[q_proj]", "data.encoding.too_long": "drop", "model.schedule.warmup_steps": "0"}
    options = sorted({option for answer in ANSWERS.values() for option in re.findall(r"`([\w.]+)(?:: [\w-]+)?`", answer)})
    parse([*FIT[1:], "-c", "configs/adapter/lora.yaml", *(word for option in options for word in (f"--{option}", values.get(option, "1")))])
