"""Old names are refused with the new ones, wherever they stand."""

from importlib import import_module
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from lit_talr.cli.renamed import CLASSES, MODULES, OPTIONS, explain_renamed, find_renamed

FIT = ["fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml", "--model.pretrained", "x"]


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*FIT, *words])
    assert stop.value.code == 1
    return capsys.readouterr().err.removeprefix("lit-talr: ").strip()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.attention", "sdpa"], "`model.attention` is now `model.compute.attention`."),
        (["--model.gradient_checkpointing=true"], "`model.gradient_checkpointing` is now `model.compute.gradient_checkpointing`."),
        (["--model.lora.r", "8"], "`model.lora.r` is now `model.adapter.r`."),
        (["--model.lora", "{r: 8}"], "`model.lora` is now `model.adapter`."),
        (["--data", "lit_talr.data.MedCalc"], "`lit_talr.data.MedCalc` is now `lit_talr.domains.MedCalc`."),
        (["--model.schedule=lit_talr.schedules.Linear"], "`lit_talr.schedules.Linear` is now `lit_talr.training.schedules.Linear`."),
        (["--model.optimizer", "lit_talr.optimizers.Muon"], "`lit_talr.optimizers.Muon` is now `lit_talr.lab.Muon`."),
        (
            ["--trainer.strategy", "lit_talr.strategies.FSDP2Strategy"],
            "`lit_talr.strategies.FSDP2Strategy` is now `lit_talr.modeling.strategies.FSDP2Strategy`.",
        ),
    ],
)
def test_on_the_command_line(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert refusal(capsys, *words) == sentence


OLD = """
data: {class_path: lit_talr.data.Clinic}
model:
  checkpoint_every: 2
  schedule: {class_path: lit_talr.schedules.Cosine, init_args: {warmup_ratio: 0.1}}
"""


def test_in_an_old_runs_configuration_all_are_named_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(OLD)
    assert refusal(capsys, "-c", str(file)) == (
        f"{file}: `model.checkpoint_every` is now `model.compute.checkpoint_every`; `lit_talr.data.Clinic` is now `lit_talr.lab.Clinic`; "
        "`lit_talr.schedules.Cosine` is now `lit_talr.training.schedules.Cosine`."
    )


def test_the_folder_of_the_base_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "--model.tokenizer", "lit_talr/models/lab/") == "`lit_talr/models/lab/` is now `lit_talr/lab/base`."


@pytest.mark.parametrize("words", [["--model.attention", "sdpa"], ["--model.attention=sdpa"]])
def test_options_of_a_message_that_is_about_them(words: list[str]) -> None:
    assert explain_renamed(words, "unrecognized arguments: --model.attention") == "`model.attention` is now `model.compute.attention`."
    assert explain_renamed(words, "`temperature` must be above 0, got 0.") is None


def test_options_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("model: {checkpoint_every: 2, gradient_checkpointing: true}\n")
    new = [f"`model.{name}` is now `model.compute.{name}`" for name in ("checkpoint_every", "gradient_checkpointing")]
    for words in (["-c", str(file)], [f"--config={file}"]):
        assert explain_renamed(words, "Subcommand 'fit' does not accept option 'model.checkpoint_every'") == f"{file}: {'; '.join(new)}."
    file.write_text("model: [")
    assert explain_renamed(["-c", str(file)], "model.checkpoint_every") is None


def test_new_names_exist_and_are_not_renamed_again() -> None:
    for path in CLASSES.values():
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(import_module(module), name), type)
    for module in MODULES.values():
        import_module(f"lit_talr.{module}")
    paths = [*(f"{path}" for path in CLASSES.values()), *(f"lit_talr.{module}.X" for module in MODULES.values())]
    assert find_renamed(" ".join(paths), OPTIONS.values()) == {}
