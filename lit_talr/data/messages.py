"""The turns of a conversation: what they may hold, and the texts in them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast, get_type_hints

from lit_talr.data.example import Message
from lit_talr.utils.errors import not_text

ROLES = ("system", "user", "assistant", "tool")
KEYS = tuple(get_type_hints(Message))
REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names that templates give to the thoughts of a response."""
GUARD, MARK = "\ufdd0", "\ufdd1"
"""Code points that Unicode keeps out of texts. A guard separates the characters of text that looks like a special token, and the tokenizer splits there.
A mark stands behind the last character of a content while a template is asked where it puts that."""
NOT_TEXT = re.compile(f"[\\ud800-\\udfff{GUARD}{MARK}]")
RENAMED = {"human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant", "function": "tool"}


def check_messages(messages: Sequence[Message]) -> None:
    """Refuses a turn without a known role or without a text, and a key that no template is given.

    Raises:
        ValueError: By turn and key.
    """
    if not messages:
        raise ValueError("The conversation must have at least one turn, got none; leave the row out.")
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            known = RENAMED.get(str(role).lower())
            way_out = f"rename it to {known!r}" if known else "rename it"
            roles = ", ".join(dict.fromkeys(repr(turn.get("role")) for turn in messages))
            raise ValueError(f"Turn {index} must have a `role` out of {', '.join(ROLES)}, got {role!r}; {way_out} (the roles here are {roles}).")
        if unknown := [key for key in message if key not in KEYS]:
            raise ValueError(
                f"Turn {index} has the key `{unknown[0]}`, which no chat template is given; rename it to one of {', '.join(KEYS)} (in a file of rows also "
                "train, weight, weights), or leave it out."
            )
        if not (isinstance(content, str) or is_parts(content) or (role == "assistant" and content is None and message.get("tool_calls"))):
            raise ValueError(f"Turn {index} must have a text as `content` (or a list of text parts), {not_text(content, 'fill it in, or leave the row out')}.")
        check_more(index, message)
        for text in texts_in(message):
            if bad := NOT_TEXT.search(text):
                raise ValueError(f"Turn {index} must hold text only, got U+{ord(bad[0]):04X} (half a surrogate pair, or a mark that is used here); remove it.")


def check_more(index: int, message: Message) -> None:
    """Refuses values of a turn's other keys that are not of their kind."""
    for key in (*REASONING, "tool_call_id", "name"):
        if not isinstance(message.get(key, ""), str):
            raise ValueError(f"Turn {index} must have a text as `{key}`, {not_text(message.get(key), 'fill it in, or leave it out')}.")
    calls = message.get("tool_calls", ())
    if not isinstance(calls, Sequence) or isinstance(calls, str) or not all(isinstance(call, Mapping) for call in calls):
        raise ValueError(f"Turn {index} must have a list of objects as `tool_calls`, got {calls!r:.80}; write each call as an object.")
    for key in ("tool_calls", *REASONING):
        if message.get(key) and message["role"] != "assistant":
            raise ValueError(f"Turn {index} of the role `{message['role']}` has `{key}`, which only an assistant has; leave it out.")


def is_parts(content: object) -> bool:
    """Tells whether a content is a list of text parts."""
    return (
        isinstance(content, Sequence)
        and not isinstance(content, str)
        and bool(content)
        and all(isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content)
    )


def content_text(message: Message) -> str:
    """The text of a turn's content."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def with_text(message: Message, change: Callable[[str], str]) -> Message:
    """A turn whose content, or its longest part, is changed."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        longest = max(range(len(content)), key=lambda at: len(content[at]["text"]))
        changed: Any = [part | {"text": change(part["text"])} if at == longest else part for at, part in enumerate(content)]
    else:
        changed = change(content)
    return cast(Message, {**message, "content": changed})


def texts_in(value: Any) -> Iterator[str]:
    """Yields the texts of a turn, a tool or an argument, with those within it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(key)
            yield from texts_in(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_in(item)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A turn, a tool or an argument with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key) if isinstance(key, str) else key: map_texts(item, change) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [map_texts(item, change) for item in value]
    return value
