"""Conversations of a row: their turns, and which of them are learned."""

import json
from typing import Any, Literal, cast

from lit_talr.data.example import Example, Message
from lit_talr.data.messages import check_messages, content_text

LEARNED = ("train", "weight")
"""The keys by which an assistant turn says whether it is learned."""


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
    if {"from", "value"} <= turns[0].keys():
        raise ValueError(f"{where}: `{column}` has turns with the keys `from` and `value`; rename them to `role` and `content`.")
    turns = [without_none(turn) for turn in turns]
    messages = [cast(Message, {key: value for key, value in turn.items() if key not in LEARNED}) for turn in turns]
    try:
        check_messages(messages)
        flags = [is_learned(index, turn) for index, turn in enumerate(turns)]
    except ValueError as error:
        raise ValueError(f"{where}: `{column}`: {error}") from error
    if system and messages[0]["role"] != "system":
        messages, flags = [Message(role="system", content=system), *messages], [None, *flags]
    supervised = learned_turns(messages, flags, choice)
    if not supervised:
        raise ValueError(f"{where}: `{column}` has no turn of the role `assistant` that is learned, so there is nothing to learn; leave the row out.")
    return Example(messages[: supervised[-1] + 1], supervised, {"where": where, "answer": content_text(messages[supervised[-1]])})


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
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise ValueError(f"Turn {index} must have true or false as `train`, got {train!r}; correct it, or leave it out.")
    if weight is not None and weight not in (0, 1):
        raise ValueError(f"Turn {index} must have 0 or 1 as `weight`, got {weight!r}; a turn is learned or not, so leave others out.")
    flags = {bool(flag) for flag in (train, weight) if flag is not None}
    if len(flags) > 1:
        raise ValueError(f"Turn {index} has `train` {train!r} and `weight` {weight!r}, of which one learns it and one does not; leave one out.")
    if True in flags and turn["role"] != "assistant":
        raise ValueError(f"Turn {index} of the role `{turn['role']}` is to be learned, but only an assistant's turn can be; leave out `train` and `weight`.")
    return flags.pop() if flags else None


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
