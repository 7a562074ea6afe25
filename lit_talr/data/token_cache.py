"""Many examples as tokens: encoded by several processes, and kept by content for the next run."""

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
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lit_talr.data import encoding
from lit_talr.data.encoding import ChatEncoder, Encoded, TooLong, tokenizer_hash
from lit_talr.data.example import Example, Message, place
from lit_talr.utils.files import write_bytes

logger = logging.getLogger(__name__)
CODE = hashlib.sha256(Path(encoding.__file__).read_bytes()).hexdigest()
FORMAT = f"1 {version('transformers')} {version('tokenizers')} {CODE}"
MANY = 4096
"""Examples from which on starting processes and keeping a file is worth it: some seconds of one process."""
PIECE = 512
"""Examples that a process is given at a time."""
Row = Encoded | TooLong

_job: tuple[ChatEncoder, Sequence[Example]]
"""What the processes that are forked work on; it need not be sent to them."""


def encode_row(encoder: ChatEncoder, example: Example) -> Row:
    """A row, or that it is too long, where that is no error.

    Raises:
        ValueError: With the row's place.
    """
    try:
        return encoder.encode(example)
    except ValueError as error:
        if isinstance(error, TooLong) and encoder.encoding.too_long != "error":
            return error
        raise ValueError(f"{place(example)}{error}") from error


def encode_many(encoder: ChatEncoder, examples: Sequence[Example], folder: Path, title: str, show: bool) -> list[Row]:
    """``encode_row`` of each, read from where an earlier run kept them, or else computed and kept there. Where they cannot be kept, the run goes on; those of
    an encoder of another class, whose code may change, never are.

    Args:
        encoder: Its tokenizer, template and options, with versions and the examples' texts, are what is kept under.
        examples: The rows.
        folder: Where files of earlier runs are.
        title: Of a progress bar.
        show: Whether there is one.

    Raises:
        ValueError: With the row's place, or if a process has died.
    """
    key = content_key(encoder, examples) if type(encoder) is ChatEncoder else None
    path = folder / f"tokens-{(key or '')[:32]}.safetensors"
    kept = None if key is None else read(path, key)
    if kept is not None:
        return kept
    rows = list(chain.from_iterable(track(encoded_pieces(encoder, examples), title, -(-len(examples) // PIECE), transient=True, disable=not show)))
    if key is not None:
        write(path, key, rows)
    return rows


def encoded_pieces(encoder: ChatEncoder, examples: Sequence[Example]) -> Iterator[list[Row]]:
    """In order, by as many processes as there are cores."""
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
        except OSError as error:  # those that were started would be waited for at the end
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
    """End this process when its parent does, however that ends: else it would wait for work for ever, and hold the run folder's lock."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def encode_piece(start: int) -> list[Row]:
    encoder, examples = _job
    return [encode_row(encoder, example) for example in examples[start : start + PIECE]]


def content_key(encoder: ChatEncoder, examples: Sequence[Example]) -> str:
    """Of all that the tokens depend on; the render of a short conversation shows what a template writes of its own, such as today's date."""
    options = encoder.encoding
    turns = [Message(role="user", content="a"), Message(role="assistant", content="b")]
    about = [FORMAT, tokenizer_hash(encoder.tokenizer), str(options.max_length), options.too_long, repr(sorted(options.template_arguments.items()))]
    about.append(encoder.render(turns, prompt=False))
    try:
        about.append(encoder.render([Message(role="system", content="c"), *turns], prompt=False))
    except ValueError:
        about.append("no system turns")
    digest = hashlib.sha256("\0".join(about).encode())
    for example in examples:
        texts = [part for message in example.messages for part in (message.get("role"), message.get("content"))]
        digest.update(repr((texts, example.supervised)).encode())
    return digest.hexdigest()


def write(path: Path, key: str, rows: Sequence[Row]) -> None:
    kept = [row for row in rows if isinstance(row, Encoded)]
    arrays = {
        "tokens": np.concatenate([row.input_ids for row in kept] or [np.zeros(0)]).astype(np.int32),
        "supervised": np.concatenate([row.supervised for row in kept] or [np.zeros(0)]).astype(bool),
        "lengths": np.array([len(row.input_ids) if isinstance(row, Encoded) else -row.num_tokens for row in rows]),  # less than 0: too long
        "truncated": np.array([row.truncated if isinstance(row, Encoded) else 0 for row in rows]),
    }
    try:
        write_bytes(path, save(arrays, {"key": key, "sha256": checksum(arrays)}))
    except OSError as error:
        logger.warning(f"Tokens of {len(rows):,} rows could not be kept ({error}); this run goes on, the next one encodes them again.")


def read(path: Path, key: str) -> list[Row] | None:
    """What was written, if it is whole and of this key."""
    try:
        with safe_open(path, framework="np") as file:
            about, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in ("tokens", "supervised", "lengths", "truncated")}
    except (OSError, SafetensorError):
        return None
    if about.get("key") != key or about.get("sha256") != checksum(arrays):
        return None
    lengths = arrays["lengths"]
    ends = np.cumsum(np.maximum(lengths, 0))[:-1]
    parts = zip(lengths.tolist(), np.split(arrays["tokens"], ends), np.split(arrays["supervised"], ends), arrays["truncated"].tolist(), strict=True)
    return [Encoded(ids, mask, truncated) if length > 0 else TooLong(-length, 0) for length, ids, mask, truncated in parts]


def checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
