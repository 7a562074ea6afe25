"""The stub as a fixture."""

import sys
from pathlib import Path

import pytest

from lit_talr.sweep import processes, workers
from tests.sweep.stub import STUB


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stub's folder; commands run it."""
    home = tmp_path / "stub"
    home.mkdir()
    (home / "stub.py").write_text(STUB)
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-S", str(home / "stub.py")])
    monkeypatch.setattr(workers, "POLL", 0.1)
    return home
