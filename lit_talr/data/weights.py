"""Weights that data give to rows, turns and spans of characters: how they are checked, and how they come to tokens."""

import json
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real

import numpy as np

from lit_talr.data.example import Example

LEAST, MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
Span = tuple[int, int, float]
"""Characters ``[start, end)`` of a text, and their weight."""


def read_weight(value: object, name: str, way_out: str = "correct it, or leave it out") -> float:
    """A weight of the data, also from its text, as every cell of a CSV file is one.

    Raises:
        ValueError: "`name` must be a finite number of at least 0, got -1; way out."
    """
    try:
        number = float(value) if isinstance(value, Real | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not (number == 0 or LEAST <= number <= MOST):
        raise ValueError(f"`{name}` must be a finite number of at least 0 that float32 can hold, got {value!r:.80}; {way_out}.")
    return number


def read_spans(value: object, name: str, text: object) -> list[Span]:
    """The spans of a text that have weights of their own, also from JSON text; none where the value is empty.

    Raises:
        ValueError: For anything but a list of [start, end, weight], a span outside the text or empty, two that overlap, and a text in parts.
    """
    way_out = "correct it, or leave it out"
    if value is None or value == "":
        return []
    spans: object = value
    if isinstance(value, str):
        try:
            spans = json.loads(value)
        except ValueError:
            spans = None
    if not isinstance(spans, Sequence) or not all(isinstance(span, Sequence) and len(span) == 3 and not isinstance(span, str) for span in spans):
        raise ValueError(f"`{name}` must be a list of [start, end, weight], with start and end in characters, got {value!r:.80}; {way_out}.")
    if spans and not isinstance(text, str):
        raise ValueError(f"`{name}` needs a `content` that is one text, got {type(text).__name__}; write it as one.")
    read = [(start, end, read_weight(weight, name)) for start, end, weight in spans]
    for start, end, _ in read:
        if not (is_whole(start) and is_whole(end) and 0 <= start < end <= len(text)):  # type: ignore[arg-type]
            raise ValueError(
                f"`{name}` must name spans within the {len(text):,} characters of the text, start < end, got [{start}, {end}); {way_out}."  # type: ignore[arg-type]
            )
    read = sorted((int(start), int(end), weight) for start, end, weight in read)
    for (start, end, _), (later, last, _) in pairwise(read):
        if later < end:
            raise ValueError(f"`{name}` must name spans that do not overlap, got [{start}, {end}) and [{later}, {last}); {way_out}.")
    return read


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; a column of lists of numbers has all of them as floats."""
    return isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()


def check_weights(example: Example) -> None:
    """Refuses weights of what is not learned, and those out of range; the rows of files have been checked where they were read.

    Raises:
        ValueError: By turn.
    """
    if read_weight(example.weight, "weight") == 0:
        raise ValueError("The weight of this row is 0, so nothing of it would be learned; leave the row out.")
    for turn, value, span in example.weights:
        if not 0 <= turn < len(example.messages) or not (turn in example.supervised or (value == 0 and span is None)):
            raise ValueError(f"A weight must name a turn of `supervised`, {tuple(example.supervised)}, got {turn}; leave it out.")
        if read_weight(value, f"weight of turn {turn}") == 0 and span is None and turn in example.supervised:
            raise ValueError(f"Turn {turn} is to be learned, and its weight is 0; leave it out of `supervised`.")
    for turn in {weight.turn for weight in example.weights}:
        own = [(value, span) for index, value, span in example.weights if index == turn]
        if sum(span is None for _, span in own) > 1:
            raise ValueError(f"Turn {turn} has several weights; give one, or name spans.")
        read_spans([[*span, value] for value, span in own if span is not None], f"weights of turn {turn}", example.messages[turn].get("content"))


def turn_weight(example: Example, turn: int) -> float:
    """The weight of a whole turn."""
    return next((value for index, value, span in example.weights if index == turn and span is None), 1.0)


def spans_of(example: Example, turn: int) -> list[Span]:
    """The spans of a turn's content that have weights of their own."""
    return [(*span, value) for index, value, span in example.weights if index == turn and span is not None]


def token_weights(characters: np.ndarray, begins: Sequence[int], ends: Sequence[int]) -> list[float]:
    """The weight of each token: the one that most of its characters have, and of those with equally many the one that comes last.

    So a space before a word does not count where the tokenizer joins both.

    Args:
        characters: ``[n]`` the weight of each character of a text.
        begins: The first character of each token.
        ends: The end of each token, one after its last character.
    """
    weights = []
    for begin, end in zip(begins, ends, strict=True):
        own = characters[begin : max(end, begin + 1)].tolist()
        weights.append(max(reversed(own), key=own.count) if own else 1.0)
    return weights
