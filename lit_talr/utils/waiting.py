"""Says what a command waits for, and how to end it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from lit_talr.utils.collectives import rank

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)
T = TypeVar("T")
SECONDS = 10.0
"""Time after which a wait is reported."""


@contextmanager
def reported(describe: Callable[[], str]) -> Iterator[None]:
    """Logs one line if the block takes more than ten seconds. Of many ranks the first two do, since all may wait for the first.

    Args:
        describe: What is waited for and how to end it, in words; called when the line is due.
    """
    timer = threading.Timer(SECONDS, lambda: logger.warning(f"Waiting for {describe()}."))
    timer.daemon = True
    if rank() < 2:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def waiting_for_ranks(whom: str) -> AbstractContextManager[None]:
    """Reports a long wait for other ranks.

    Args:
        whom: The ranks, with what they do meanwhile.
    """
    return reported(lambda: f"{whom}; if one has ended or hangs, end all, and start again by the same line")


def on_rank_zero(trainer: "Trainer", work: Callable[[], T], deed: str) -> T:
    """Lets rank zero do some work, and gives its result, or raises its error, on every rank, so that none waits in vain. Collective.

    Args:
        trainer: Knows the ranks.
        work: What rank zero does.
        deed: The same in words, for those that wait, such as ``reads FILE``.
    """
    result: T | None = None
    fault: Exception | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except Exception as error:  # of any kind: the others would wait for ever
            fault = error
    with waiting_for_ranks("the other ranks" if trainer.is_global_zero else f"rank 0, which {deed}"):
        result, fault = trainer.strategy.broadcast((result, fault))
    if fault is not None:
        raise fault
    return cast(T, result)


def fetching(name: str) -> AbstractContextManager[None]:
    """Reports a long download from the hub; a local file or folder is none."""
    if Path(name).exists():
        return nullcontext()
    return reported(lambda: f"{name} from the hub or its cache; Ctrl-C ends this, and with HF_HUB_OFFLINE=1 only the cache is read")
