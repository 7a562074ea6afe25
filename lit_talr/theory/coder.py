"""An arithmetic coder whose probabilities are a causal model's: the code length as real bytes, from which the text comes back."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.theory.message import Message
from lit_talr.theory.pieces import cut, join, to_bytes
from lit_talr.theory.walk import check_context, check_tokens, start_token, walk

Code = Callable[[np.ndarray, np.ndarray], None]
"""Places ``[n]`` of tokens and their distributions ``[n, V]``: the encoder reads the tokens there, the decoder writes them."""


def compress(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, context: int = 256, rows: int = 64) -> bytes:
    """Code a text in its code length under the model, plus 32 bytes and what rounding costs.

    Probabilities are multiples of 2^-24 and none is 0: of V tokens, one of probability p is coded with (1 - V / 2^24) p + 2^-24. So no token costs more
    than 24 bits, and the coded text of a model that is often sure and wrong is shorter than its code length. Pieces of the text that the tokenizer does
    not give back exactly are coded as bytes, each of probability 1/256.

    ``decompress`` repeats every step of the model, and works where they give bitwise the same numbers: the same weights and dtype, the same versions, the
    same kind of device or processor. A checksum tells where they do not.

    Args:
        model: Any causal language model that keeps keys and values.
        tokenizer: Its tokenizer.
        text: Any string.
        context: Tokens of a block, at most as many as the model can see; blocks know nothing of each other. Longer ones need fewer bits and more time.
        rows: Blocks that run side by side, in [1, 65535]; they save time and need memory.

    Raises:
        ModuleNotFoundError: Without the extra ``theory``.
        ValueError: For a context that the model cannot see, a number of rows out of range, a tokenizer that knows more tokens than the model, or a model
            that gives no numbers.
    """
    coder = range_coder()
    check_context(model, context)
    if not 1 <= rows <= 65535:
        raise ValueError(f"`rows` must lie in [1, 65535], got {rows}.")
    pieces = cut(text, tokenizer)
    ids = np.array([token for piece in pieces for token in piece.ids], dtype=np.int32)
    raw = np.frombuffer(b"".join(piece.raw for piece in pieces), np.uint8).astype(np.int32)
    start = start_token(tokenizer)
    check_tokens(model, int(ids.max(initial=start)))
    encoder, categorical = coder.queue.RangeEncoder(), coder.model.Categorical(perfect=False)
    if raw.size:
        encoder.encode(raw, coder.model.Uniform(256))

    def code(places: np.ndarray, probabilities: np.ndarray) -> None:
        encoder.encode(ids[places], categorical, probabilities)

    num_threads = min(torch.get_num_threads(), 255)
    with threads(num_threads):
        code_tokens(model, start, ids, context, rows, code)
    sizes = [(len(piece.ids), len(piece.raw)) for piece in pieces]
    return Message(num_threads, rows, context, zlib.crc32(to_bytes(text)), sizes, encoder.get_compressed()).pack()


def decompress(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: bytes) -> str:
    """The text that ``compress`` was given, with the same model and tokenizer; how the model was run stands in the header.

    Raises:
        ModuleNotFoundError: Without the extra ``theory``.
        ValueError: For what is not a whole message, or was coded with another model or by other arithmetic.
    """
    coder = range_coder()
    message = Message.unpack(data)
    check_context(model, message.context)
    decoder, categorical = coder.queue.RangeDecoder(message.words), coder.model.Categorical(perfect=False)
    num_tokens, num_raw = (sum(numbers) for numbers in zip((0, 0), *message.sizes, strict=True))
    raw = decoder.decode(coder.model.Uniform(256), num_raw).astype(np.uint8).tobytes() if num_raw else b""
    ids = np.zeros(num_tokens, dtype=np.int32)

    def code(places: np.ndarray, probabilities: np.ndarray) -> None:
        ids[places] = decoder.decode(categorical, probabilities)

    try:
        with threads(message.threads):
            code_tokens(model, start_token(tokenizer), ids, message.context, message.rows, code)
        text = join(message.sizes, ids.tolist(), raw, tokenizer)
    except (AssertionError, UnicodeDecodeError):  # the first is constriction's, for words that cannot come from these probabilities
        text = None
    if text is None or zlib.crc32(to_bytes(text)) != message.text_checksum:
        raise ValueError(
            "The text was coded with another model or tokenizer, or where arithmetic gives other last digits; decode it with the same weights, dtype, "
            "versions and kind of processor as it was coded with."
        )
    return text


def code_tokens(model: PreTrainedModel, start: int, ids: np.ndarray, context: int, rows: int, code: Code) -> None:
    """Visit every token once, in the one order that both sides share: ``rows`` blocks side by side, step by step.

    Args:
        ids: ``[N]``; the model goes on with what stands there after ``code`` was called.
    """
    for first in range(0, len(ids), rows * context):
        starts = np.arange(first, min(first + rows * context, len(ids)), context)
        code_side_by_side(model, start, ids, starts, min(context, len(ids) - first), code)


def code_side_by_side(model: PreTrainedModel, start: int, ids: np.ndarray, starts: np.ndarray, num_steps: int, code: Code) -> None:
    def choose(step: int, logits: Tensor) -> Tensor:
        places = (starts + step)[starts + step < len(ids)]  # only the last row may be over
        code(places, logits[: len(places)].double().softmax(-1).cpu().numpy())
        tokens = torch.full((len(starts),), start)
        tokens[: len(places)] = torch.from_numpy(ids[places])
        return tokens

    walk(model, start, len(starts), num_steps, choose)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run PyTorch on so many threads: sums that are shared out differently end in other digits."""
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
