"""Tokens as a reader sees them: no blank that is invisible, no half of a character."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

LONGEST = 8
"""Tokens that one character is looked for in: it has at most four bytes, but the last of them may share a token with the next one's first."""
UNFINISHED = "\ufffd"
MARKS = {"\n": "⏎\n", "\t": "⇥", "\r": "␍"}


class Piece(NamedTuple):
    """A token's text."""

    text: str  # what is shown in its place
    part: int  # 0 where it has a text of its own, else which token of a character this is, from 1
    parts: int  # of how many
    whole: str  # the text of all of these


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> list[Piece]:
    """The text of each token; where several make one character, the first has it, and the others say which part they are.

    Args:
        tokenizer: Whose tokens.
        ids: Token ids.
        before: Those in front of them, since a decoder may drop the blank at the start of a text.
    """
    found: list[Piece] = []
    context, start = list(before), 0
    while start < len(ids):
        length, text = next_text(tokenizer, context, ids[start : start + LONGEST])
        shown = visible(text)
        if length == 1:
            found.append(Piece(shown, 0, 1, shown))
        else:
            found += [Piece(shown if part == 1 else f"{part}/{length}", part, length, shown) for part in range(1, length + 1)]
        context, start = list(ids[start : start + length]), start + length
    return found


def next_text(tokenizer: PreTrainedTokenizerBase, context: Sequence[int], ids: Sequence[int]) -> tuple[int, str]:
    """How many of the next tokens make whole characters, and their text; a token that no others complete stands alone."""
    texts = (decode(tokenizer, context, ids[:length]) for length in range(1, len(ids) + 1))
    first = next(texts)
    if UNFINISHED not in first:
        return 1, first
    return next(((length, text) for length, text in enumerate(texts, 2) if UNFINISHED not in text), (1, first))


def decode(tokenizer: PreTrainedTokenizerBase, context: Sequence[int], ids: Sequence[int]) -> str:
    """The text that tokens add behind others."""
    before, both = plain(tokenizer, context), plain(tokenizer, [*context, *ids])
    return both[len(before) :] if both.startswith(before) else plain(tokenizer, ids)


def plain(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """All of a text, special tokens too."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def visible(text: str) -> str:
    """A text of which something can be seen: ends of lines, tabs, blanks that stand alone, and signs that have no shape."""
    if text and not text.strip(" "):
        return "␣" * len(text)
    if text and all(sign.isspace() or unicodedata.category(sign)[0] == "C" for sign in text) and not set(text) & set(MARKS):
        return " ".join(f"U+{ord(sign):04X}" for sign in text)
    shown = "".join(MARKS.get(sign) or (f"\\x{ord(sign):02x}" if unicodedata.category(sign) == "Cc" else sign) for sign in text)
    return "◌" + shown if shown and unicodedata.combining(shown[0]) else shown or "∅"
