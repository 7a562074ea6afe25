"""Places between the tokens of a text, where others can be put in."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from lit_talr.data.example import Example
from lit_talr.data.messages import NOT_TEXT


@dataclass(frozen=True)
class Seams:
    """A tokenised text.

    Args:
        text: The text.
        input_ids: Its tokens.
        begins: The number of characters before each token, ascending.
        ends: The number of characters up to the end of each token, ascending.
    """

    text: str
    input_ids: Sequence[int]
    begins: Sequence[int]
    ends: Sequence[int]

    def places(self) -> list[int]:
        """The places between two tokens, as numbers of characters before them."""
        return [end for end, begin in zip(self.ends, self.begins[1:], strict=False) if end <= begin]

    def num_tokens_before(self, at: int) -> int:
        """The number of tokens in the first ``at`` characters.

        Raises:
            ValueError: For a place inside a token.
        """
        index = bisect_right(self.ends, at)
        if (self.ends[index - 1] if index else 0) != at or (index < len(self.begins) and self.begins[index] < at):
            raise ValueError(f"An insertion must lie between two tokens, got {at} characters into {self.text[max(0, at - 20) : at + 20]!r}, inside a token.")
        return index

    def behind(self, at: int) -> tuple[str, list[int]]:
        """The token behind a place, as its text and as a list; both are empty at the end."""
        index = self.num_tokens_before(at)
        return self.text[at : self.ends[index]] if index < len(self.ends) else "", list(self.input_ids[index : index + 1])


def check_insertions(example: Example) -> None:
    """Refuses insertions into what is not learned, or beyond a text.

    Raises:
        ValueError: By turn.
    """
    for turn, at, text in example.insertions:
        if turn not in example.supervised:
            raise ValueError(f"An insertion must name a turn of `supervised`, {tuple(example.supervised)}, got {turn}; leave it out.")
        content = example.messages[turn]["content"]
        if not isinstance(content, str):
            raise ValueError(f"Turn {turn} has an insertion, so its `content` must be one text, got {type(content).__name__}; write it as one.")
        if not 0 <= at <= len(content):
            raise ValueError(f"An insertion must lie within the {len(content)} characters of turn {turn}, got {at}.")
        if not text or NOT_TEXT.search(text):
            raise ValueError(f"An insertion into turn {turn} must be text that is not empty, got {text!r}.")


def start_of(content: str, rendered: str, end: int, turn: int) -> int:
    """The number of characters before a content in its rendered turn, which may lack the white space around it (so the number may be negative).

    Args:
        content: The text.
        rendered: The turn.
        end: The number of its characters up to the end of the content, white space aside.
        turn: The turn's number.

    Raises:
        ValueError: If the template does not write it as it is.
    """
    body = content.strip()
    if rendered[max(0, end - len(body)) : end] != body:
        raise ValueError(
            f"The chat template must write the text of turn {turn} as it is, since places in it are named (insertions, or weights of spans); "
            "leave them out, or give another `encoding.chat_template`."
        )
    return end - len(content.rstrip())
