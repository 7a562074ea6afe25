"""Configuration files as parsers find and read them."""

import inspect
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from lit_talr.callbacks import Drift
from lit_talr.cli.parsers import PACKAGE, ConfigFile, VerbParser, find_config, lists_of, option_names, refuse_linked, typed_names


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


def test_a_list_replaces_one_of_the_same_length_with_its_options(tmp_path: Path) -> None:
    """jsonargparse alone keeps `every_n_steps` of the first Drift, since both lists have two items."""
    (tmp_path / "first.yaml").write_text("callbacks: [{class_path: Summary}, {class_path: lit_talr.callbacks.Drift, init_args: {every_n_steps: 7, length: 3}}]")
    (tmp_path / "second.yaml").write_text("callbacks: [lit_talr.callbacks.Drift, {class_path: lit_talr.callbacks.Drift, init_args: {length: 9}}]")
    parser = VerbParser()
    parser.add_argument("-c", "--config", action=ConfigFile)
    parser.add_argument("--callbacks", type=list[Callback] | None)
    words = [word for name in ("first", "second") for word in ("-c", str(tmp_path / f"{name}.yaml"))]
    first, second = parser.parse_args(words).callbacks
    default = inspect.signature(Drift).parameters["every_n_steps"].default
    assert (first.init_args.every_n_steps, second.init_args.every_n_steps, second.init_args.length) == (default, default, 9)
    assert list(lists_of({"a": [1], "b": {"c+": [1], "c": [], "d": 2}})) == ["a", "b.c+", "b.c"]
