"""One training or test example, before any tokenizer has seen it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

Split = Literal["train", "val", "test"]


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation, and which of its turns are learned.

    Args:
        messages: The turns in order. A plain prompt and response are two messages.
        supervised: Indices into ``messages`` of the turns that carry loss, ascending.
        meta: What scoring and reports need (the true answer, a category, where the row came from); never shown to the model.
    """

    messages: Sequence[Message]
    supervised: tuple[int, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_prompt(cls, prompt: str, response: str, system: str | None = None, meta: Mapping[str, Any] | None = None) -> "Example":
        """An optional system turn, one user turn and one supervised assistant turn."""
        messages = [Message(role="system", content=system)] if system else []
        messages += [Message(role="user", content=prompt), Message(role="assistant", content=response)]
        return cls(messages, (len(messages) - 1,), meta or {})

    @property
    def prompt(self) -> Sequence[Message]:
        """What the model is given when it has to answer: every turn before the last supervised one."""
        return self.messages[: self.supervised[-1]]


def place(example: Example) -> str:
    """How a message about an example begins: its file and row, where they are known."""
    return f"{example.meta['where']}: " if "where" in example.meta else ""
