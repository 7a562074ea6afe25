"""A text as pieces that a tokenizer restores exactly, and pieces that stay bytes."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

SHORTEST = 16
"""Characters of a piece that is not split further: every split costs eight bytes of the header."""


class Piece(NamedTuple):
    """Either tokens or bytes; the other is empty."""

    ids: list[int]
    raw: bytes


def split_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Splits a text. Most tokenizers restore every text, which is one piece then; one that changes letters or lacks some leaves a few bytes.

    A part that fails is halved until its halves are tokens or shorter than ``SHORTEST``; adjacent bytes are joined.
    """
    pieces: list[Piece] = []
    waiting = [text] if text else []
    while waiting:
        part = waiting.pop()
        ids = restorable(part, tokenizer)
        if ids is not None:
            pieces.append(Piece(ids, b""))
        elif len(part) > SHORTEST:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        elif pieces and pieces[-1].raw:
            pieces[-1] = Piece([], pieces[-1].raw + to_bytes(part))
        else:
            pieces.append(Piece([], to_bytes(part)))
    return pieces


def restorable(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The tokens of a text, if they decode to it."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return None  # half a surrogate pair, which tokenizers refuse
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[assignment]
    return ids if ids and to_text(ids, tokenizer) == text else None


def join_pieces(sizes: Sequence[tuple[int, int]], ids: Sequence[int], raw: bytes, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of pieces with these numbers of tokens and bytes."""
    text, token, byte = "", 0, 0
    for num_tokens, num_bytes in sizes:
        text += to_text(ids[token : token + num_tokens], tokenizer) + raw[byte : byte + num_bytes].decode("utf-8", "surrogatepass")
        token, byte = token + num_tokens, byte + num_bytes
    return text


def to_text(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def to_bytes(text: str) -> bytes:
    """UTF-8 that allows halves of surrogate pairs, such as ``surrogateescape`` leaves."""
    return text.encode("utf-8", "surrogatepass")
