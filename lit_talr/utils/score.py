"""A score, with everything that it belongs to."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from lit_talr.utils.files import read_json, write_json

DIGITS = 16
"""Hexadecimal digits of a hash in a record."""


class Items(NamedTuple):
    """The things that a score is a mean over."""

    number: int
    unit: str  # tokens, responses, sequences
    digest: str  # hash of their content

    def first(self, number: int) -> "Items":
        """So many of them, where not all were scored."""
        return self if number == self.number else Items(number, self.unit, digest(self.digest, number))


@dataclass(frozen=True)
class Score:
    """A number of ``metrics.json``.

    Args:
        value: The number.
        step: Optimizer steps of the weights, counted from the base model; None where nobody has counted them.
        weights: Identifies the weights, see ``WeightsIdentity``.
        base: Hash of the base model's files; None for random weights.
        arithmetic: What the forward pass was computed in: ``fp32``, ``bf16 autocast``, ``bf16 weights``.
        num_items: How many items it is over; None for a number of training, such as the learning rate.
        unit: What the items are: tokens, responses, sequences.
        items: Hash of their content.
    """

    value: float
    step: int | None
    weights: str
    base: str | None
    arithmetic: str
    num_items: int | None = None
    unit: str | None = None
    items: str | None = None


Scores = Mapping[str, Score]
"""Scores by name."""


def read_scores(file: Path) -> dict[str, dict[str, Score]]:
    """Reads the scores in a ``metrics.json``, by command (``fit``, ``validate``, ``test``) and name; empty without a file.

    Raises:
        ValueError: For a file that is not whole, or was written by an earlier version.
    """
    try:
        commands = read_json(file)
        scores = {command: {name: Score(**record) for name, record in scores.items()} for command, scores in commands.items()}
        if not all(isinstance(score.value, int | float) for by_name in scores.values() for score in by_name.values()):
            raise TypeError
    except (ValueError, TypeError, AttributeError) as error:
        names = ", ".join(field.name for field in fields(Score))
        raise ValueError(f"{file} is not a whole file of scores, each with {names}; run the command that wrote it again.") from error
    return scores


def write_scores(file: Path, commands: Mapping[str, Scores]) -> None:
    """Writes scores by command and name."""
    write_json(file, {command: {name: asdict(score) for name, score in sorted(scores.items())} for command, scores in commands.items()})


def last_step(scores: Scores) -> int | None:
    """The number of steps after which the newest of the scores was measured; None where none tells."""
    return max((score.step for score in scores.values() if score.step is not None), default=None)


def values(scores: Scores) -> dict[str, float]:
    """The finite values by name."""
    return {name: float(score.value) for name, score in scores.items() if isfinite(score.value)}


def digest(*parts: object) -> str:
    """The hash of some values, in hexadecimal."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()
