"""Conversations of a row: their turns, and which of them are learned."""

import json
from typing import Any, Literal, cast

from lit_talr.data.example import Example, Message, Weight
from lit_talr.data.messages import RENAMED, check_messages, content_text
from lit_talr.data.weights import read_spans, read_weight

LEARNED = ("train", "weight", "weights")
"""The keys by which an assistant turn says whether it is learned, and with which weight."""


def conversation(turns: object, column: str, choice: Literal["all", "last"], system: str | None, where: str) -> Example:
    """Reads a conversation up to its last learned turn.

    Args:
        turns: The column's value.
        column: The column's name.
        choice: Which assistant turns are learned that do not say it themselves.
        system: A system turn put before a conversation without one.
        where: The row's name.

    Raises:
        ValueError: By row, column and turn.
    """
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{where}: `{column}` must be a list of turns with the texts `role` and `content`, got {turns!r:.80}.")
    turns = [with_role(without_none(turn)) for turn in turns]
    messages = [cast(Message, {key: value for key, value in turn.items() if key not in LEARNED}) for turn in turns]
    try:
        check_messages(messages)
        flags = [is_learned(index, turn) for index, turn in enumerate(turns)]
        weights = [weights_of(index, turn, flag) for index, (turn, flag) in enumerate(zip(turns, flags, strict=True))]
    except ValueError as error:
        raise ValueError(f"{where}: `{column}`: {error}") from error
    if system and messages[0]["role"] != "system":
        messages, flags, weights = [Message(role="system", content=system), *messages], [None, *flags], [[], *weights]
    supervised = learned_turns(messages, flags, choice)
    if not supervised:
        raise ValueError(f"{where}: `{column}` has no turn of the role `assistant` that is learned, so there is nothing to learn; leave the row out.")
    messages = messages[: supervised[-1] + 1]
    own = [weight._replace(turn=index) for index, weights_of_turn in enumerate(weights[: len(messages)]) for weight in weights_of_turn]
    return Example(messages, supervised, {"where": where, "answer": content_text(messages[-1])}, weights=own)


def with_role(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn of the form of ShareGPT, with ``from`` and ``value``, by the usual keys and roles; another one as it is."""
    if not {"from", "value"} <= turn.keys() or {"role", "content"} & turn.keys():
        return turn
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {"role": RENAMED.get(turn["from"], turn["from"]) if isinstance(turn["from"], str) else turn["from"], "content": turn["value"], **others}


def learned_turns(messages: list[Message], flags: list[bool | None], choice: Literal["all", "last"]) -> tuple[int, ...]:
    """The turns that are learned: by their own flags, or else all, or the last of the conversation."""
    assistant = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    chosen = assistant if choice == "all" else assistant[-1:]
    return tuple(index for index in assistant if (index in chosen if flags[index] is None else flags[index]))


def is_learned(index: int, turn: dict[str, Any]) -> bool | None:
    """Whether a turn says that it is learned; None if it says nothing.

    Raises:
        ValueError: For another value, two that differ, and a turn of another role that is to be learned.
    """
    train, weight, spans = turn.get("train"), turn.get("weight"), turn.get("weights")
    if train is not None and not isinstance(train, bool):
        raise ValueError(f"Turn {index} must have true or false as `train`, got {train!r}; correct it, or leave it out.")
    values = {"train": train, "weight": None if weight is None else number(index, weight), "weights": spans or None}
    flags = {name: bool(value) for name, value in values.items() if value is not None}
    if len(set(flags.values())) > 1:
        said = " and ".join(f"`{name}` {turn[name]!r:.80}" for name in flags)
        raise ValueError(f"Turn {index} has {said}, of which one learns it and one does not; leave one out.")
    if any(flags.values()) and turn["role"] != "assistant":
        raise ValueError(
            f"Turn {index} of the role `{turn['role']}` is to be learned, but only an assistant's turn can be; leave out {' and '.join(map(quoted, flags))}, "
            "or give all prompts a weight by `encoding.prompt_weight`."
        )
    return next(iter(flags.values()), None)


def quoted(name: str) -> str:
    return f"`{name}`"


def number(index: int, weight: object) -> float:
    """The weight of a turn.

    Raises:
        ValueError: By turn, for a text and for what is no weight.
    """
    if isinstance(weight, str):
        raise ValueError(f"Turn {index}: `weight` must be a number, got the text {weight!r:.80}; write it without quotes.")
    try:
        return read_weight(weight, "weight")
    except ValueError as error:
        raise ValueError(f"Turn {index}: {error}") from error


def weights_of(index: int, turn: dict[str, Any], flag: bool | None) -> list[Weight]:
    """The weights that a turn gives itself and spans of its content.

    Raises:
        ValueError: By turn.
    """
    if flag is False:
        return [Weight(index, 0.0)]
    try:
        spans = read_spans(turn.get("weights"), "weights", turn.get("content"))
    except ValueError as error:
        raise ValueError(f"Turn {index}: {error}") from error
    whole = number(index, turn.get("weight", 1))
    return [Weight(index, whole)] * (whole != 1) + [Weight(index, value, (start, end)) for start, end, value in spans]


def read_object(value: object, column: str, kind: type, where: str) -> Any:
    """A column's list or object, also from JSON text; None where it is empty.

    Raises:
        ValueError: For another value.
    """
    parsed: Any = value
    if isinstance(value, str) and value.strip():
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
    if value is None or value == "":
        return None
    if not isinstance(parsed, kind) or (kind is list and not all(isinstance(item, dict) for item in cast(list, parsed))):
        noun = "a list of objects" if kind is list else "an object"
        raise ValueError(f"{where}: `{column}` must be {noun}, or one as JSON text, got {value!r:.80}; correct it, or leave it empty.")
    return without_none(parsed)


def without_none(value: Any) -> Any:
    """A value without the keys that have none: a table gives every object the keys of all."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value
