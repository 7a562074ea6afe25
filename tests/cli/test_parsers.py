"""Configuration files as parsers find and read them."""

from pathlib import Path

import pytest
import yaml

from lit_talr.cli.parsers import PACKAGE, VerbParser, find_config, option_names, refuse_linked, typed_names


def test_a_file_here_goes_before_one_that_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/base.yaml") == str(PACKAGE / "configs" / "base.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").touch()
    assert find_config("configs/base.yaml") == "configs/base.yaml"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("data: lit_talr.lab.Clinic", ["data"]),
        ("data: [a]", ["data"]),
        ("data: {init_args: {1: 2}}", ["data", "data", "data.1"]),
        ("trainer: {callbacks+: [{class_path: A, init_args: {b: 1}}]}", ["trainer", *(f"trainer.callbacks{name}" for name in ("", ".class_path", "", ".b"))]),
    ],
)
def test_names_of_options_in_a_file(text: str, names: list[str]) -> None:
    assert [*option_names(yaml.safe_load(text))] == names
    refuse_linked(names)  # odd values are left to the parser


@pytest.mark.parametrize(("word", "file"), [("mine.yaml", "mine.yaml"), ("--mine.json", "mine.json"), ("runs/x.1", "runs/x.1/config.yaml")])
def test_a_file_or_run_without_its_option_is_answered_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, file: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x.1").mkdir(parents=True)
    (tmp_path / "runs" / "x.1" / "config.yaml").touch()
    with pytest.raises(ValueError, match=f"unrecognized arguments: {word}; write -c before a configuration file: -c {file}$"):
        VerbParser().parse_args([word])


def test_names_of_options_on_a_command_line() -> None:
    assert typed_names(["fit", "-c", "x", "--data.init_args.a=1", "--trainer.callbacks+=X", "--b", "c"]) == ["data.a", "trainer.callbacks", "b"]
