"""Says what a command waits for, and how to end it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from lit_talr.utils.collectives import rank

logger = logging.getLogger(__name__)
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


def waiting_for_ranks(deed: str) -> AbstractContextManager[None]:
    """Reports a long wait for the other ranks.

    Args:
        deed: What they do meanwhile.
    """
    return reported(lambda: f"the other ranks, while {deed}; if one of them has ended or hangs, end all, and start again by the same line")


def fetching(name: str) -> AbstractContextManager[None]:
    """Reports a long download from the hub; a local file or folder is none."""
    if Path(name).exists():
        return nullcontext()
    return reported(lambda: f"{name} from the hub or its cache; Ctrl-C ends this, and with HF_HUB_OFFLINE=1 only the cache is read")
