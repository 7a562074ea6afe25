"""Error sentences: the name, what it requires, what it got, the way out."""

import errno
import math
import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from lit_talr.utils.collectives import starter_has_ended

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a limit without room."""
WAYS_OUT = {
    **dict.fromkeys(FULL, "make room, and start again by the same line"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "get the right to, or name another place"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "correct the path"),
    errno.ENOENT: "correct the path, or put back what was moved or removed meanwhile",
    **dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP), "name a folder on a disk that has locks"),
    errno.EAGAIN: "another process holds it, so wait for its end",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}
"""Ways out of an error of the system, by its number."""

NOUNS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
"""The types of values of a file in words."""

CONTINUE = "the same line with `--ckpt_path auto` continues from the newest checkpoint"
"""The way out where a run has ended by something from outside."""
LOST_RANK = re.compile(r"gloo/transport/|NCCL.*remote process|TCPStore|DistNetworkError|sendBytes failed|recvValue failed", re.DOTALL)
"""Words in the errors of a rank that waits for one that has ended."""


def check_least(name: str, value: float | None, least: float, way_out: str = "") -> None:
    """Refuses a number below ``least``; None passes.

    Raises:
        ValueError: "`name` must be at least 1, got 0; way out."
    """
    if value is not None and not value >= least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}{f'; {way_out}' if way_out else ''}.")


def check_in(name: str, value: float | None, interval: str, way_out: str = "") -> None:
    """Refuses a number outside an interval, and one that is not a number; None passes.

    Args:
        name: What the user calls it.
        value: The number.
        interval: As it is written, such as ``[0, 1)``; ``inf`` has no end.
        way_out: What to do instead.

    Raises:
        ValueError: "`name` must lie in [0, 1), got 2; way out."
    """
    if value is None:
        return
    lower, upper = map(float, interval[1:-1].split(","))
    above = value > lower or (interval[0] == "[" and value == lower)
    below = value < upper or (interval[-1] == "]" and value == upper)
    if not (above and below) or math.isnan(value):
        raise ValueError(f"`{name}` must lie in {interval}, got {value}{f'; {way_out}' if way_out else ''}.")


def not_text(value: object, way_out: str) -> str:
    """The end of a sentence about a value in the place of a text: what it is, and the way out, which is the given one where nothing is there."""
    if value is None or isinstance(value, str):
        return f"got {value!r:.80}; {way_out}"
    if isinstance(value, bytes):
        return f"got the bytes {value!r:.80}; decode them to text, as from UTF-8, where the file is written"
    noun = next((noun for kind, noun in NOUNS.items() if isinstance(value, kind)), f"a value of the type {type(value).__name__}")
    return f"got {noun}, {value!r:.80}; write it as a text, or leave the row out"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that are spelt most like a name, the nearest first, whatever the case."""
    by_folded = {other.casefold(): other for other in known}
    return [by_folded[found] for found in get_close_matches(name.casefold(), by_folded, cutoff=0.6)]


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def explain_system_error(error: OSError) -> str:
    """The sentence for a file that the system refuses, with the reason and the way out; an error that is a sentence already is unchanged."""
    if error.strerror is None or (error.filename is None and error.errno not in FULL):
        return str(error)
    place = os.fsdecode(error.filename2 or error.filename or "A file of the run, of a cache or in TMPDIR")
    way_out = WAYS_OUT.get(error.errno or 0, "once the cause is gone, start again by the same line")
    return f"{place} cannot be read or written ({error.strerror}); {way_out}."


def explain_lost_rank(message: str) -> str | None:
    """The sentence for an error of a rank that has lost another; None for all other errors."""
    if not LOST_RANK.search(message):
        return None
    lost = "rank 0" if starter_has_ended() else "another rank"
    return f"{lost} has ended, by an error of its own or a signal, such as the system's where memory is full; {CONTINUE}."


def end_of(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}; its own words say why"
    return f"signal {-status}{': out of memory?' if status == -signal.SIGKILL else ''}"


@contextmanager
def without_code(name: str) -> Iterator[None]:
    """Within the block, transformers' advice to trust the code of a repository becomes a refusal.

    Raises:
        ValueError: For a model, configuration or tokenizer that comes with code of its own.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name} needs Python code of its own (`auto_map` in its JSON files), which is never run; give one of a kind built into transformers."
        ) from error
