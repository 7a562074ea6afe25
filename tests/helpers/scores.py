"""Scores as runs write them, for tests that only want their values."""

from collections.abc import Mapping
from pathlib import Path

from lit_talr.utils.score import Score, read_scores, values, write_scores

RECORD = {"step": 7, "weights": "b", "base": "b", "arithmetic": "fp32"}


def read_values(run: Path, command: str) -> dict[str, float]:
    """The finite values of a command's scores."""
    return values(read_scores(run / "metrics.json")[command])


def write_values(run: Path, commands: Mapping[str, Mapping[str, float]], **belongs: object) -> None:
    """Write values as scores, which all belong to the same unless `belongs` says otherwise."""
    records = {command: {name: Score(value, **{**RECORD, **belongs}) for name, value in scores.items()} for command, scores in commands.items()}  # type: ignore[arg-type]
    write_scores(run / "metrics.json", records)
