from pathlib import Path

import pytest

from lit_talr.sweep.identity import DECIDES, PACKAGE, code_key, configuration_key
from tests.test_layers import FLOORS

AROUND = {"__main__", "__init__", "cli", "sweep", "heatmap", "report", "callbacks", "tasks", "curriculum", "diagnose", "estimate", "theory", "utils"}
"""Packages that decide no number of a trial, or only in the files that ``DECIDES`` names."""


def test_the_key_has_the_contents_of_files_and_not_their_comments(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: {seed: 1}\n")
    key = configuration_key(["fit", "-c", str(file)])
    file.write_text("# a comment\ndata:\n  seed: 1\n")
    assert configuration_key(["fit", "-c", str(file)]) == key
    file.write_text("data: {seed: 2}\n")
    assert configuration_key(["fit", "-c", str(file)]) != key
    assert configuration_key(["fit", "-c", "configs/loss/talr.yaml"]) != configuration_key(["fit", "-c", "configs/loss/dft.yaml"])


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("losses/a.py", '"""Other words."""\n\ndef f():\n    """A docstring."""\n    return 1  # why\n', True),
        ("losses/a.py", "def f():\n    return 2\n", False),
        ("losses/b.py", "x = 1\n", False),
        ("module.py", "x = 1\n", False),
        ("lab/base/model.safetensors", "other weights", False),
        ("report/a.py", "x = 1\n", True),
    ],
)
def test_the_code_key_changes_with_code_that_decides_and_not_with_words_about_it(tmp_path: Path, name: str, text: str, same: bool) -> None:
    for path, content in {"losses/a.py": '"""Words."""\n\n\ndef f():\n    return 1\n', "lab/base/model.safetensors": "weights", "report/a.py": ""}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    before = code_key(tmp_path)
    (tmp_path / name).write_text(text)
    assert (code_key(tmp_path) == before) is same


def test_every_package_decides_or_does_not() -> None:
    assert all((PACKAGE / name).exists() for name in DECIDES)
    assert {name.removesuffix(".py") for name in DECIDES if "/" not in name} | AROUND == set(FLOORS), "put a new package into DECIDES, or into AROUND here"
