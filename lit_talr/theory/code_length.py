"""Code lengths: the bits that a causal language model needs for a sequence of tokens, or per byte of a text."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.theory.pieces import split_text, to_bytes
from lit_talr.theory.walk import check_context, check_tokens, evaluation, start_token, widen


class CodeLength(NamedTuple):
    """Code lengths of several sequences; the first token of each is given, and neither coded nor counted."""

    nats: Tensor  # [N] float32 (float64 for a float64 model)
    num_tokens: Tensor  # [N] int64

    @property
    def bits(self) -> Tensor:
        return self.nats / math.log(2)


def code_length(model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int = 16) -> CodeLength:
    """L_q(z) = -log q(z_2, ..., z_T | z_1), the length that an ideal arithmetic coder would give each sequence; no gradient.

    Args:
        model: Any causal language model; runs in evaluation mode.
        sequences: Token ids, at least one in each; lengths may differ.
        batch_size: Sequences that run at once; changes results by rounding only.

    Raises:
        ValueError: For a sequence without tokens, a token outside the model's vocabulary, or a model that gives NaN.
    """
    nats = token_code_lengths(model, sequences, batch_size)
    return CodeLength(torch.stack([tokens.sum() for tokens in nats]) if nats else torch.zeros(0), torch.tensor([len(tokens) for tokens in nats]))


def token_code_lengths(model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int = 16) -> list[Tensor]:
    """-log q(z_t | z_1, ..., z_t-1) in nats of every token but the first of each sequence; arguments and dtype of ``code_length``.

    Raises:
        ValueError: For a sequence without tokens, a token outside the model's vocabulary, or a model that gives NaN.
    """
    for number, sequence in enumerate(sequences):
        if not len(sequence):
            raise ValueError(f"`sequences` must hold at least the given first token each, but number {number} is empty.")
        check_tokens(model, max(sequence))
    nats: list[Tensor] = []
    for first in range(0, len(sequences), batch_size):
        nats += batch_code_lengths(model, sequences[first : first + batch_size])
    return nats


def batch_code_lengths(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Code lengths of one batch, on the CPU. Padding is on the right, where a causal model does not look."""
    longest = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), longest, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.as_tensor(sequence)
    if longest == 1:
        return [torch.zeros(0)] * len(sequences)
    tokens = tokens.to(model.device)
    with evaluation(model):
        logits = widen(model(input_ids=tokens[:, :-1], use_cache=False).logits)
        nll = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(sequences), -1).cpu()
    return [values[: len(sequence) - 1] for values, sequence in zip(nll, sequences, strict=True)]


def blocks(ids: Sequence[int], start: int, context: int) -> list[list[int]]:
    """Blocks of ``context`` tokens, the last one shorter, each preceded by ``start``."""
    return [[start, *ids[first : first + context]] for first in range(0, len(ids), context)]


class TextBlocks(NamedTuple):
    """A text as blocks of tokens, and the bytes that the tokenizer cannot restore, which cost eight bits each."""

    blocks: list[list[int]]
    num_raw: int  # bytes that the tokenizer cannot restore
    num_bytes: int  # of the whole text

    def bits_per_byte(self, nats: float) -> float:
        """Bits per byte of the text, given the code length of its blocks."""
        return (nats / math.log(2) + 8 * self.num_raw) / self.num_bytes


def text_blocks(tokenizer: PreTrainedTokenizerBase, text: str, context: int) -> TextBlocks:
    """Splits a text into blocks of ``context`` tokens, each preceded by the tokenizer's ``start_token``, as ``compress`` does."""
    pieces = split_text(text, tokenizer)
    ids = [token for piece in pieces for token in piece.ids]
    return TextBlocks(blocks(ids, start_token(tokenizer), context), sum(len(piece.raw) for piece in pieces), len(to_bytes(text)))


def bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, context: int = 256, batch_size: int = 16) -> float:
    """Code length of a text per byte of its UTF-8, comparable between tokenizers: bytes that one cannot restore cost eight bits each.

    Args:
        model: Any causal language model.
        tokenizer: Its tokenizer; only the token before each block is added to the text.
        text: At least one byte.
        context: Tokens of a block; blocks are independent.
        batch_size: Blocks that run at once.

    Raises:
        ValueError: For an empty text, a context longer than the model's, or a tokenizer that is not the model's.
    """
    check_context(model, context)
    if not text:
        raise ValueError("`text` must have at least one byte, got none.")
    parts = text_blocks(tokenizer, text, context)
    nats = code_length(model, parts.blocks, batch_size).nats
    return parts.bits_per_byte(float(nats.sum(dtype=torch.float64)))
