"""Tokens as readable texts: blanks are made visible, and characters stay whole."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

LONGEST = 8
"""The most tokens that a character is searched in: it has at most four bytes, but the last of them may share a token with the next one's first."""
UNFINISHED = "\ufffd"
MARKS = {"\n": "⏎\n", "\t": "⇥", "\r": "␍"}


class Piece(NamedTuple):
    """A token's text."""

    text: str  # what is shown in its place
    part: int  # 0 for a text of its own, else the number of this token within a character, from 1
    parts: int  # tokens of that character
    whole: str  # their text


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> list[Piece]:
    """The text of each token; where several make one character, the first has it, and the others name their part.

    Args:
        tokenizer: Decodes the tokens.
        ids: Token ids.
        before: Preceding ids: a decoder may drop the blank at the start of a text.
    """
    result: list[Piece] = []
    context, start = list(before), 0
    while start < len(ids):
        length, text = next_text(tokenizer, context, ids[start : start + LONGEST])
        shown = visible(text)
        if length == 1:
            result.append(Piece(shown, 0, 1, shown))
        else:
            result += [Piece(shown if part == 1 else f"{part}/{length}", part, length, shown) for part in range(1, length + 1)]
        context, start = list(ids[start : start + length]), start + length
    return result


def next_text(tokenizer: PreTrainedTokenizerBase, context: Sequence[int], ids: Sequence[int]) -> tuple[int, str]:
    """The number of the next tokens that make whole characters, and their text; a token that no others complete stands alone."""
    texts = (decode(tokenizer, context, ids[:length]) for length in range(1, len(ids) + 1))
    first = next(texts)
    if UNFINISHED not in first:
        return 1, first
    return next(((length, text) for length, text in enumerate(texts, 2) if UNFINISHED not in text), (1, first))


def decode(tokenizer: PreTrainedTokenizerBase, context: Sequence[int], ids: Sequence[int]) -> str:
    """The text that tokens add after others."""
    before, both = plain(tokenizer, context), plain(tokenizer, [*context, *ids])
    return both[len(before) :] if both.startswith(before) else plain(tokenizer, ids)


def plain(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The whole text, special tokens too."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def visible(text: str) -> str:
    """A text with visible signs for ends of lines, tabs, lone blanks, and characters without a shape."""
    if text and not text.strip(" "):
        return "␣" * len(text)
    if text and all(sign.isspace() or unicodedata.category(sign)[0] == "C" for sign in text) and not set(text) & set(MARKS):
        return " ".join(f"U+{ord(sign):04X}" for sign in text)
    shown = "".join(MARKS.get(sign) or (f"\\x{ord(sign):02x}" if unicodedata.category(sign) == "Cc" else sign) for sign in text)
    return "◌" + shown if shown and unicodedata.combining(shown[0]) else shown or "∅"
