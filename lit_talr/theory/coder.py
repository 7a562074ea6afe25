"""An arithmetic coder with the probabilities of a causal model: code lengths as real bytes, which decode to the text."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.theory.message import Message
from lit_talr.theory.pieces import join_pieces, split_text, to_bytes
from lit_talr.theory.walk import check_context, check_tokens, start_token, walk
from lit_talr.utils.errors import check_in

Code = Callable[[np.ndarray, np.ndarray], None]
"""Indices ``[n]`` of tokens and their distributions ``[n, V]``: the encoder reads these tokens, the decoder writes them."""


def compress(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, context: int = 256, rows: int = 64) -> bytes:
    """Codes a text in its code length under the model, plus 32 bytes and the cost of rounding.

    Probabilities are multiples of 2^-24 and none is 0: of V tokens, one of probability p is coded with (1 - V / 2^24) p + 2^-24. So no token costs more
    than 24 bits, and a model that is often sure and wrong codes a text in less than its code length. Pieces of the text that the tokenizer cannot
    restore exactly are coded as bytes, each of probability 1/256.

    ``decompress`` repeats every step of the model. It needs bitwise the same numbers, and so the same weights and dtype, the same versions, and the same
    kind of device or processor. A checksum detects a difference.

    Args:
        model: Any causal language model with a cache of keys and values.
        tokenizer: Its tokenizer.
        text: Any string.
        context: Tokens of a block, at most the model's positions; blocks are independent. Longer ones need fewer bits and more time.
        rows: Blocks that run in one batch, in [1, 65535]; more save time and need memory.

    Raises:
        ModuleNotFoundError: Without the extra ``theory``.
        ValueError: For a context longer than the model's, a number of rows out of range, a tokenizer with more tokens than the model, or a model that gives
            NaN.
    """
    coder = range_coder()
    check_context(model, context)
    check_in("rows", rows, "[1, 65535]")
    pieces = split_text(text, tokenizer)
    ids = np.array([token for piece in pieces for token in piece.ids], dtype=np.int32)
    raw = np.frombuffer(b"".join(piece.raw for piece in pieces), np.uint8).astype(np.int32)
    start = start_token(tokenizer)
    check_tokens(model, int(ids.max(initial=start)))
    encoder, categorical = coder.queue.RangeEncoder(), coder.model.Categorical(perfect=False)
    if raw.size:
        encoder.encode(raw, coder.model.Uniform(256))

    def code(indices: np.ndarray, probabilities: np.ndarray) -> None:
        encoder.encode(ids[indices], categorical, probabilities)

    num_threads = min(torch.get_num_threads(), 255)
    with threads(num_threads):
        code_tokens(model, start, ids, context, rows, code)
    sizes = [(len(piece.ids), len(piece.raw)) for piece in pieces]
    return Message(num_threads, rows, context, zlib.crc32(to_bytes(text)), sizes, encoder.get_compressed()).pack()


def decompress(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: bytes) -> str:
    """Decodes the text given to ``compress``, with the same model and tokenizer; the header holds how the model was run.

    Raises:
        ModuleNotFoundError: Without the extra ``theory``.
        ValueError: For a message that is not whole, or was coded with another model or other arithmetic.
    """
    coder = range_coder()
    message = Message.unpack(data)
    check_context(model, message.context)
    decoder, categorical = coder.queue.RangeDecoder(message.words), coder.model.Categorical(perfect=False)
    num_tokens, num_raw = (sum(numbers) for numbers in zip((0, 0), *message.sizes, strict=True))
    raw = decoder.decode(coder.model.Uniform(256), num_raw).astype(np.uint8).tobytes() if num_raw else b""
    ids = np.zeros(num_tokens, dtype=np.int32)

    def code(indices: np.ndarray, probabilities: np.ndarray) -> None:
        ids[indices] = decoder.decode(categorical, probabilities)

    try:
        with threads(message.threads):
            code_tokens(model, start_token(tokenizer), ids, message.context, message.rows, code)
        text = join_pieces(message.sizes, ids.tolist(), raw, tokenizer)
    except (AssertionError, UnicodeDecodeError):  # the first is constriction's, for words that cannot come from these probabilities
        text = None
    if text is None or zlib.crc32(to_bytes(text)) != message.text_checksum:
        raise ValueError(
            "The text was coded with another model or tokenizer, or where arithmetic gives other last digits; decode it with the same weights, dtype, "
            "versions and kind of processor as it was coded with."
        )
    return text


def code_tokens(model: PreTrainedModel, start: int, ids: np.ndarray, context: int, rows: int, code: Code) -> None:
    """Visits every token once, in the order that both sides share: ``rows`` blocks in a batch, step by step.

    Args:
        ids: ``[N]``; the model continues with the tokens there after ``code`` was called.
    """
    for first in range(0, len(ids), rows * context):
        starts = np.arange(first, min(first + rows * context, len(ids)), context)
        code_blocks(model, start, ids, starts, min(context, len(ids) - first), code)


def code_blocks(model: PreTrainedModel, start: int, ids: np.ndarray, starts: np.ndarray, num_steps: int, code: Code) -> None:
    def choose(step: int, logits: Tensor) -> Tensor:
        indices = (starts + step)[starts + step < len(ids)]  # only the last row may have ended
        code(indices, logits[: len(indices)].double().softmax(-1).cpu().numpy())
        tokens = torch.full((len(starts),), start)
        tokens[: len(indices)] = torch.from_numpy(ids[indices])
        return tokens

    walk(model, start, len(starts), num_steps, choose)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Runs PyTorch on ``number`` threads, since other numbers of threads round sums differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def range_coder() -> Any:
    """The module ``constriction.stream``.

    Raises:
        ModuleNotFoundError: Without the extra ``theory``.
    """
    try:
        from constriction import stream
    except ImportError as error:
        raise ModuleNotFoundError("The arithmetic coder needs constriction, which is not installed: pip install lit_talr[theory].") from error
    return stream
