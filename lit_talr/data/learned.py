"""Checks that a template renders all of a row."""

import json
import re
from collections.abc import Iterator, Sequence

from lit_talr.data.chat_template import ChatTemplate
from lit_talr.data.example import Example, Message
from lit_talr.data.messages import REASONING, content_text, texts_in
from lit_talr.data.turns import AssistantTurn, shared_length


def check_learned(template: ChatTemplate, messages: Sequence[Message], turn: AssistantTurn, special: re.Pattern[str]) -> None:
    """Refuses a learned turn without an end, or without some of its texts.

    Args:
        template: The chat template.
        messages: The conversation up to the turn.
        turn: The turn as rendered.
        special: Matches a special token.

    Raises:
        ValueError: With the text that is missing.
    """
    index, message = len(messages) - 1, messages[-1]
    where = f"T{str(template)[1:]}"
    if not special.sub("", turn.text).strip():
        raise ValueError(f"{where} leaves nothing of turn {index}; give another `encoding.chat_template`.")
    if not turn.ended:
        raise ValueError(
            f"{where} never writes a token that ends a response, so a model would not learn to stop; write {{{{ eos_token }}}} after an assistant's "
            "content in a copy of it, and give that as `encoding.chat_template`."
        )
    learned, prompt = squeezed(turn.text), ""
    for key, text in parts_of(message):
        if any(form in learned for form in forms(text)):
            continue
        prompt = prompt or generation_prompt(template, messages, turn)  # which may open a block of thoughts that the content opens too
        if not any(form in squeezed(prompt) + learned for form in forms(text)):
            raise ValueError(
                f"{where} renders only a part of the `{key}` of turn {index}: {excerpt(text)} is not in {excerpt(turn.text)}; "
                "change the text as the template expects it, or give another `encoding.chat_template`."
            )


def check_context(template: ChatTemplate, example: Example, whole: str) -> None:
    """Refuses a system or user turn that the template leaves out.

    Raises:
        ValueError: By turn and role.
    """
    rendered = squeezed(whole)
    for index, message in enumerate(example.messages):
        text = squeezed(content_text(message))
        if message["role"] == "assistant" or text in rendered or message["role"] == "tool":
            continue
        try:
            without = template.render([*example.messages[:index], *example.messages[index + 1 :]], prompt=not example.supervised)
        except ValueError:
            continue
        if without == whole:
            raise ValueError(
                f"T{str(template)[1:]} leaves out turn {index} of the role `{message['role']}`; put its text into another turn, "
                "or give another `encoding.chat_template`."
            )


def parts_of(message: Message) -> Iterator[tuple[str, str]]:
    """Yields the texts of a response that are learned, each with its key."""
    yield "content", content_text(message)
    for key in REASONING:
        if message.get(key):
            yield key, message[key]  # type: ignore[literal-required]
    for call in message.get("tool_calls", ()):
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                pass  # rendered as it is
        for text in (function.get("name", ""), *texts_in(arguments)):
            yield "tool_calls", text


def forms(text: str) -> Iterator[str]:
    """Yields a text as a template may write it: as it is, or within JSON."""
    yield squeezed(text)
    yield squeezed(json.dumps(text, ensure_ascii=False)[1:-1])
    yield squeezed(json.dumps(text)[1:-1])


def squeezed(text: str) -> str:
    """A text without white space, which templates add and remove."""
    return "".join(text.split())


def generation_prompt(template: ChatTemplate, messages: Sequence[Message], turn: AssistantTurn) -> str:
    return turn.before[shared_length(turn.before, template.render(messages[:-1], prompt=False)) :]


def excerpt(text: str) -> str:
    """The beginning and end of a text, for messages."""
    return repr(text) if len(text) <= 70 else f"{text[:33]!r} ... {text[-33:]!r}"
