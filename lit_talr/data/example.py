"""One training or test example, before tokenisation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

Split = Literal["train", "val", "test"]
Part = Literal["train", "val", "test", "held_out"]
"""A split, or the training rows that are set aside and never trained on."""


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it."""

    role: str
    content: Any  # a text, or a list of text parts: {"type": "text", "text": "..."}
    reasoning_content: NotRequired[str]  # or `reasoning`, or `thinking`, as the template calls it
    reasoning: NotRequired[str]
    thinking: NotRequired[str]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


class Insertion(NamedTuple):
    """A text put into a learned turn after its tokenisation, so that no other token changes."""

    turn: int  # index into ``messages``
    at: int  # characters of the turn's content before it, 0 for none; between two tokens
    text: str


class Weight(NamedTuple):
    """A number that the loss's weights of a turn's tokens are multiplied by; 0 leaves them out."""

    turn: int  # index into ``messages``
    value: float
    span: tuple[int, int] | None = None  # characters [start, end) of the turn's content; None: the whole turn, with its end


@dataclass(frozen=True)
class Example:
    """A conversation, and which of its turns are learned.

    Args:
        messages: The turns in order. A plain prompt and response are two messages.
        supervised: Indices into ``messages`` of the turns that carry loss, ascending.
        meta: Values for scoring and reports (the true answer, a category, the row's file and number); never shown to the model.
        tools: The functions that the model may call, as JSON schemas.
        template_arguments: Arguments of the chat template for this row, over those of ``encoding.template_arguments``.
        insertions: Noise for training; those at one place follow one another in this order. Prompts of generation have none.
        weights: Weights of learned turns and of spans within them, 1 by default; a token's weight is the product of its turn's and its span's. A whole turn
            that is not learned may have 0, which ``encoding.prompt_weight`` then does not supervise either.
        weight: Weight of the whole row, above 0; multiplies those of all its tokens.
    """

    messages: Sequence[Message]
    supervised: tuple[int, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    insertions: Sequence[Insertion] = ()
    weights: Sequence[Weight] = ()
    weight: float = 1.0

    @classmethod
    def from_prompt(cls, prompt: str, response: str, system: str | None = None, meta: Mapping[str, Any] | None = None) -> "Example":
        """Makes an optional system turn, a user turn and a supervised assistant turn."""
        messages = [Message(role="system", content=system)] if system else []
        messages += [Message(role="user", content=prompt), Message(role="assistant", content=response)]
        return cls(messages, (len(messages) - 1,), meta or {})

    @property
    def prompt(self) -> Sequence[Message]:
        """The model's input for generation: every turn before the last supervised one."""
        return self.messages[: self.supervised[-1]]


def place(example: Example) -> str:
    """The beginning of an error message about an example: its file and row, if they are known."""
    return f"{example.meta['where']}: " if "where" in example.meta else ""
