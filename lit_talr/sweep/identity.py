"""Identifies a point of a sweep by its configuration, and the code that decides its numbers, so that a finished one need not be run again."""

import ast
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from lit_talr.utils.score import DIGITS, digest
from lit_talr.utils.yaml_text import parse_yaml

PACKAGE = Path(__file__).parents[1]
DECIDES = (
    *("checkpoint", "data", "domains", "kernels", "lab", "losses", "metrics", "modeling", "module.py", "training"),
    *(f"callbacks/{name}.py" for name in ("base", "domain_score", "drift", "general_score", "token_probability")),
    *("curriculum/difficulty.py", "curriculum/token_groups.py"),
)
"""The packages and files that decide what a trial's numbers are; all others run, watch or show it."""
KINDS = (".py", ".json", ".jinja", ".safetensors")


def find_file(name: str) -> Path | None:
    """The file of that name, or else the one shipped with the package."""
    return next((file for file in (Path(name), PACKAGE / name) if file.is_file()), None)


def configuration_key(words: Sequence[str]) -> str:
    """The hash of a command: its words, with the contents of YAML files in place of their names; comments do not matter."""
    files = [find_file(word) if word.endswith((".yaml", ".yml")) else None for word in words]
    return digest(*(parse_yaml(file.read_text(encoding="utf-8")) if file else word for word, file in zip(words, files, strict=True)))[:DIGITS]


def code_key(package: Path = PACKAGE) -> str:
    """The hash of the code and model files named in ``DECIDES``; comments, docstrings and blanks do not matter."""
    files = [file for name in DECIDES for file in sorted([package / name, *(package / name).rglob("*")]) if file.is_file() and file.suffix in KINDS]
    parts = [[file.relative_to(package), sha256(bare_code(file) if file.suffix == ".py" else file.read_bytes()).hexdigest()] for file in files]
    return digest(*parts)[:DIGITS]


def bare_code(file: Path) -> bytes:
    """A Python file without comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.dump(tree).encode()
