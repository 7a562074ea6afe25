"""Where responses begin and end in rendered conversations."""

import re
from collections.abc import Sequence
from typing import NamedTuple, cast

from lit_talr.data.chat_template import ChatTemplate
from lit_talr.data.example import Message
from lit_talr.data.messages import GUARD, MARK, REASONING, content_text, with_text

CALL_ID = "call00001"


class Ends(NamedTuple):
    """The texts by which a template ends a response."""

    written: str | None  # the special tokens that end the last response of a conversation; None if there are none
    added: str | None  # the text up to and with the special token that ends a response only where another turn follows, such as GLM's <|user|>


class AssistantTurn(NamedTuple):
    """An assistant turn in a rendered conversation."""

    before: str  # the text in front of it, up to where generation begins
    text: str  # the turn with its end of turn
    body: str  # the part of it that the template writes where the conversation ends with this turn
    ended: bool
    end: int  # characters of the turn up to the end of its content, white space and guards aside


class Mismatch(NamedTuple):
    """Two renders that should begin alike, and do not."""

    expected: str
    found: str

    def __str__(self) -> str:
        same = shared_length(*self)
        texts = [f"{text[max(0, same - 20) : same + 30]!r}" for text in self]
        return f"{texts[0]} against {texts[1]}"


def find_ends(template: ChatTemplate, special: re.Pattern[str], calls: bool) -> Ends:
    """Finds the end of turn of plain responses, or of tool calls, in conversations of two and three turns.

    Raises:
        ValueError: If the template refuses two turns.
    """
    answer = Message(role="assistant", content="" if calls else f"b{MARK}")
    after = Message(role="user", content=f"{MARK}c")
    if calls:
        answer["tool_calls"] = [{"type": "function", "id": CALL_ID, "function": {"name": "f", "arguments": {"x": f"y{MARK}"}}}]
        after = Message(role="tool", content=f"{MARK}c", name="f", tool_call_id=CALL_ID)
    turns = [Message(role="user", content="a"), answer]
    last = template.render(turns, prompt=False)
    try:
        _, *_, inner, _ = template.render([*turns, after], prompt=False).split(MARK)
    except ValueError:  # refused, or without a mark
        inner = ""
    if MARK not in last:
        return Ends(None, None)
    return compare_ends(last.rpartition(MARK)[2], inner, special, openers(last, special), calls)


def openers(text: str, special: re.Pattern[str]) -> list[str]:
    """The special tokens with which a conversation begins: that of the whole, and that of a turn."""
    tokens, at = [], len(text) - len(text.lstrip())
    while token := special.match(text, at):
        tokens.append(token[0])
        at = token.end()
    return tokens


def compare_ends(last: str, inner: str, special: re.Pattern[str], opens: Sequence[str], calls: bool) -> Ends:
    """Tells the end of turn from what may follow it, since both texts share the former.

    They share the header of a next turn too where the template always adds one, as Llama 3's does.

    Args:
        last: The text after the last response of a conversation.
        inner: The text after a response before the next turn; empty if the template refuses that.
        special: Matches a special token.
        opens: The special tokens that open a turn.
        calls: The response is a call, within which there may be special tokens.
    """
    shared = last[: shared_length(last, inner)]
    tokens = list(special.finditer(shared))
    cut = next((at for at, token in enumerate(tokens) if at and token[0] in opens), len(tokens))
    if not tokens and (own := list(special.finditer(last))):
        tokens, cut = own[-1:] if calls else own[:1], 1
    if tokens:
        *tokens, token = tokens[:cut]
        run = [token]
        while tokens and tokens[-1].end() == run[0].start():  # as Cohere's <|END_RESPONSE|><|END_OF_TURN_TOKEN|>
            run.insert(0, tokens.pop())
        return Ends("".join(token[0] for token in run), None)
    end = special.search(inner)
    return Ends(None, end and inner[len(shared.rstrip()) : end.end()])


def marked(message: Message) -> Message:
    """A turn with a mark behind the last word of its content, or else of its thoughts."""

    def mark(text: str) -> str:
        return f"{text.rstrip()}{MARK}{text[len(text.rstrip()) :]}" if text.strip() else text

    key = next((key for key in REASONING if message.get(key)), None)
    if content_text(message).strip() or key is None:
        return with_text(message, mark)
    return cast(Message, {**message, key: mark(message[key])})  # type: ignore[literal-required]


def assistant_turn(template: ChatTemplate, messages: Sequence[Message], ends: Ends) -> AssistantTurn | Mismatch:
    """The last turn as rendered; a mismatch if the template does not continue its own generation prompt."""
    before = template.render(messages[:-1], prompt=True)
    after = template.render([*messages[:-1], marked(messages[-1])], prompt=False)
    if not after.startswith(before):
        return Mismatch(before, after.replace(MARK, ""))
    content, _, rest = after[len(before) :].rpartition(MARK)
    content = content.replace(MARK, "")
    end = len(content.replace(GUARD, ""))
    if ends.written and ends.written in rest:
        body = content + rest[: rest.index(ends.written) + len(ends.written)]
        return AssistantTurn(before, body, body, True, end)
    body = content + rest.rstrip() + trailing_space(messages[-1], rest)
    return AssistantTurn(before, body + (ends.added or ""), body, ends.added is not None, end)


def trailing_space(message: Message, rest: str) -> str:
    """The white space at the end of a content, where the template keeps it."""
    text = content_text(message)
    space = text[len(text.rstrip()) :]
    return space if text.strip() and rest.startswith(space) and not rest.strip() else ""


def shared_length(first: str, second: str) -> int:
    """The number of characters with which both texts begin."""
    return next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), min(len(first), len(second)))
