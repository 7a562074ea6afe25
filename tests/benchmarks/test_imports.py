"""What the benchmarks import inside their functions is there, so that none breaks unseen until it has a GPU."""

import ast
import importlib
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_names_of_this_package_are_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("lit_talr", "benchmarks"):
            try:
                module = importlib.import_module(str(node.module))
            except ModuleNotFoundError as error:
                if str(error.name).startswith(("lit_talr", "benchmarks")):
                    raise
                pytest.skip(f"{error.name} is not installed")
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
