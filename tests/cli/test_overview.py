import os
import subprocess
import sys

import pytest

from lit_talr import __version__
from lit_talr.__main__ import COMMANDS, OVERVIEW, main
from lit_talr.cli.command_line import VERBS
from lit_talr.cli.lightning_cli import CLI


def test_it_lists_every_command() -> None:
    assert set(COMMANDS) == {*CLI.subcommands(), *VERBS}
    assert max(map(len, OVERVIEW.splitlines())) <= 100


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["--version"], ["--debug", "--help"]])
def test_it_is_printed_before_anything_is_imported(words: list[str]) -> None:
    program = f"import sys; sys.argv = ['lit-talr', *{words}]; from lit_talr.__main__ import main; main(); assert not {{'torch', 'yaml'}} & {{*sys.modules}}"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed == (f"lit-talr {__version__}\n" if words == ["--version"] else f"{OVERVIEW}\n")


def test_other_words_are_a_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-talr", "fti"])
    with pytest.raises(SystemExit):
        main()
    assert "there is no command `fti`; did you mean `fit`? There are fit, validate, test" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_help_has_our_options_and_that_of_all_lightnings_too(command: str) -> None:
    brief, whole = (printed(command, option) for option in ("--help", "--help-all"))
    assert len(brief.splitlines()) < 200
    for name in ("--run", "--ckpt_path", "--model.loss", "--model.optimizer", "--data", "--help-all"):
        assert f"  {name} " in brief and f"  {name} " in whole, name
    assert brief.index("--ckpt_path") < brief.index("--model.loss") < brief.index("--data") < brief.index("--trainer.NAME")
    assert "--trainer.max_epochs" in whole and "--trainer.max_epochs" not in brief


def printed(*words: str) -> str:
    """In a process of its own: the help lists all classes, and other tests define some."""
    run = subprocess.run([sys.executable, "-m", "lit_talr", *words], env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=True)
    return run.stdout
