"""Starting two ranks, once for all cases of a module that are going to run."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def fast_and_slow(cases: Iterable[str], fast: Iterable[str]) -> list[Any]:
    """All cases as parameters; those that are not fast are marked slow."""
    fast = set(fast)
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def chosen(request: pytest.FixtureRequest) -> list[str]:
    """The parameters called ``case`` of those tests of a module that are going to run, each once."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    return list(dict.fromkeys(item.callspec.params["case"] for item in tests if hasattr(item, "callspec") and "case" in item.callspec.params))


def torchrun(module: str, *words: str) -> None:
    """A module as two ranks, both of which must end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
