import io
import re

import pytest
from rich.console import Console

from lit_talr.utils import progress
from lit_talr.utils.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_nothing_of_short_work_and_lines_of_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    assert list(track([1, 2, 3], "Work", console=Console(file=file))) == [1, 2, 3] and file.getvalue() == ""
    monkeypatch.setattr(progress, "MINUTES", 0.0)
    assert list(track(iter("ab"), "Work", 2, console=Console(file=file))) == ["a", "b"]
    assert re.sub(r"\d{4}-\S+ \S+ ", "", file.getvalue()) == "Work: 0 of 2\nWork: 1 of 2\n"
    assert list(track([1], "Work", show=False, console=Console(file=file))) == [1] and file.getvalue().count("\n") == 2


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    assert list(track([1, 2], "Work", console=Console(file=file))) == [1, 2]
    assert "Work" in file.getvalue() and "100%" in file.getvalue()
