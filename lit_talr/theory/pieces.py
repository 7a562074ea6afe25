"""A text as pieces that a tokenizer gives back exactly, and pieces that it does not and which stay bytes."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

SHORTEST = 16
"""Characters of a piece that is not cut further: every cut costs eight bytes of the header."""


class Piece(NamedTuple):
    """Either tokens or bytes; the other is empty."""

    ids: list[int]
    raw: bytes


def cut(text: str, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Cut a text. Most tokenizers give back every text, so it is one piece; one that changes letters or knows few of them leaves bytes here and there.

    What fails is halved until its halves are tokens or shorter than ``SHORTEST``; neighbours that stay bytes are joined.
    """
    found: list[Piece] = []
    waiting = [text] if text else []
    while waiting:
        part = waiting.pop()
        ids = restorable(part, tokenizer)
        if ids is not None:
            found.append(Piece(ids, b""))
        elif len(part) > SHORTEST:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        elif found and found[-1].raw:
            found[-1] = Piece([], found[-1].raw + to_bytes(part))
        else:
            found.append(Piece([], to_bytes(part)))
    return found


def restorable(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The tokens of a text, if they are that text."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return None  # half of a character, which tokenizers refuse
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[assignment]
    return ids if ids and to_text(ids, tokenizer) == text else None


def join(sizes: Sequence[tuple[int, int]], ids: Sequence[int], raw: bytes, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of pieces, of which the numbers of tokens and bytes are given."""
    text, token, byte = "", 0, 0
    for num_tokens, num_bytes in sizes:
        text += to_text(ids[token : token + num_tokens], tokenizer) + raw[byte : byte + num_bytes].decode("utf-8", "surrogatepass")
        token, byte = token + num_tokens, byte + num_bytes
    return text


def to_text(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def to_bytes(text: str) -> bytes:
    """UTF-8 in which halves of characters, such as ``surrogateescape`` leaves, are allowed."""
    return text.encode("utf-8", "surrogatepass")
