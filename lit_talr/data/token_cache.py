"""Encodes many examples in several processes, and caches their tokens by content for the next run."""

import ctypes
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from itertools import chain
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
import torch

from lit_talr.data import chat_template, encoding, insertions, learned, messages, turns, weights
from lit_talr.data import encoder as encoder_module
from lit_talr.data.encoder import ChatEncoder, Encoded, TooLong, join_weights
from lit_talr.data.example import Example, Message, place
from lit_talr.data.tokenizer import tokenizer_hash
from lit_talr.utils.cache import ContentCache, Entry
from lit_talr.utils.progress import track

logger = logging.getLogger(__name__)
SOURCES = [chat_template, encoder_module, encoding, insertions, learned, messages, turns, weights]
CODE = hashlib.sha256(b"".join(Path(str(source.__file__)).read_bytes() for source in SOURCES)).hexdigest()
MANY = 4096
"""Number of examples from which starting processes and caching is worth it: some seconds of one process."""
PIECE = 512
"""Number of examples that a process is given at a time."""
Row = Encoded | TooLong

_job: tuple[ChatEncoder, Sequence[Example]]
"""The work of forked processes; a fork inherits it, so it need not be sent to them."""


def encode_row(encoder: ChatEncoder, example: Example) -> Row:
    """Encodes one example; returns ``TooLong`` for one that is too long, unless that is an error.

    Raises:
        ValueError: With the row's file and number.
    """
    try:
        return encoder.encode(example)
    except ValueError as error:
        if isinstance(error, TooLong) and encoder.encoding.too_long != "error":
            return error
        raise ValueError(f"{place(example)}{error}") from error


def encode_many(encoder: ChatEncoder, examples: Sequence[Example], run: str | Path, title: str, show: bool) -> list[Row]:
    """Reads the rows of ``encode_row`` that an earlier run cached, or else computes and caches them.

    A subclass of ``ChatEncoder`` is never cached, since the key does not cover its code.

    Args:
        encoder: Its tokenizer, template and options are part of the key, like the texts and the versions of the tokenizer's packages.
        examples: The rows.
        run: The run folder; the cache lies next to it.
        title: Title of the progress bar.
        show: Whether there is a progress bar.

    Raises:
        ValueError: With the row's file and number, or if a process has died.
    """
    cache = token_cache(run, encoder, examples) if type(encoder) is ChatEncoder else None
    if cache is not None and (entry := cache.read()) is not None:
        return unpack_rows(entry)
    rows = list(chain.from_iterable(track(encoded_pieces(encoder, examples), title, -(-len(examples) // PIECE), show)))
    if cache is not None:
        cache.write(pack_rows(rows))
    return rows


def token_cache(run: str | Path, coder: ChatEncoder, examples: Sequence[Example]) -> ContentCache:
    """The cache entry of rows. A short conversation is rendered for what a template adds by itself, such as today's date."""
    options, template = coder.encoding, coder.template
    short = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    about = [version("transformers"), version("tokenizers"), CODE, tokenizer_hash(coder.tokenizer)]
    about += [str(options.max_length), options.too_long, str(options.prompt_weight), repr(sorted(options.template_arguments.items()))]
    for conversation in (short, [Message(role="system", content="c"), *short]):
        try:
            about.append(template.render(conversation, prompt=False))
        except ValueError:
            about.append("cannot be rendered")
    digest = hashlib.sha256()
    for example in examples:
        parts = list(example.messages), example.supervised, list(example.tools), dict(example.template_arguments), [*map(tuple, example.insertions)]
        digest.update(repr((*parts, [*map(tuple, example.weights)], example.weight)).encode())
    return ContentCache(run, "tokens", *about, digest.digest())


def pack_rows(rows: Sequence[Row]) -> Entry:
    encoded = [row for row in rows if isinstance(row, Encoded)]
    arrays = {
        "tokens": np.concatenate([row.input_ids for row in encoded] or [np.zeros(0)]).astype(np.int32),
        "supervised": np.concatenate([row.supervised for row in encoded] or [np.zeros(0)]).astype(bool),
        "noise": np.concatenate([row.noise for row in encoded] or [np.zeros(0)]).astype(bool),
        "lengths": np.array([len(row.input_ids) if isinstance(row, Encoded) else -row.num_tokens for row in rows]),  # negative: too long
        "truncated": np.array([row.truncated if isinstance(row, Encoded) else 0 for row in rows]),
    }
    if (joined := join_weights(encoded)) is not None:
        arrays["weights"] = joined
    return Entry({name: torch.from_numpy(array) for name, array in arrays.items()})


def unpack_rows(entry: Entry) -> list[Row]:
    names = ("tokens", "supervised", "noise", "lengths", "truncated")
    tokens, supervised, noise, lengths, truncated = (entry.tensors[name].numpy() for name in names)
    ends = np.cumsum(np.maximum(lengths, 0))[:-1]
    own = np.split(entry.tensors["weights"].numpy(), ends) if "weights" in entry.tensors else [None] * len(lengths)
    parts = zip(lengths.tolist(), truncated.tolist(), *(np.split(array, ends) for array in (tokens, supervised, noise)), own, strict=True)
    return [Encoded(ids, mask, cut, inserted, weight) if length > 0 else TooLong(-length, 0) for length, cut, ids, mask, inserted, weight in parts]


def encoded_pieces(encoder: ChatEncoder, examples: Sequence[Example]) -> Iterator[list[Row]]:
    """Encodes pieces in order, in as many processes as there are cores."""
    global _job
    num_processes = min(32, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1  # elsewhere a fork is not safe
    _job, starts = (encoder, examples), range(0, len(examples), PIECE)
    if num_processes == 1:
        yield from map(encode_piece, starts)
        return
    before = active_children()
    with ProcessPoolExecutor(num_processes, get_context("fork"), end_with, (os.getpid(),)) as processes:
        try:
            pieces = processes.map(encode_piece, starts)
        except OSError as error:  # or the executor would wait for those that were started
            for process in set(active_children()) - set(before):
                process.kill()
                process.join()
            logger.warning(f"{num_processes} processes could not be started to encode rows ({error}); one does it.")
            pieces = map(encode_piece, starts)
        try:
            yield from pieces
        except BrokenProcessPool as error:
            raise ValueError("A process that encodes rows has died, most often for want of memory; free some, or take fewer rows.") from error


def end_with(parent: int) -> None:
    """Ends this process with its parent, however that ends; else it would wait for work forever."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def encode_piece(start: int) -> list[Row]:
    encoder, examples = _job
    return [encode_row(encoder, example) for example in examples[start : start + PIECE]]
