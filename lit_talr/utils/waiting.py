"""Says what a command waits for, and how to end it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from lit_talr.utils.collectives import rank

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)
T = TypeVar("T")
SECONDS = 10.0
"""Time after which a wait is reported."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables that forbid downloads."""
CACHES = (("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"), ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"))
"""Variables that name the folder of downloads, of models and of data sets; the first that is set does."""


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


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Reports a long download from the hub; a local file or folder is none.

    Raises:
        OSError: For a variable that names no folder for downloads, and where another forbids them; the libraries advise to check the connection.
    """
    if Path(name).exists():
        yield
        return
    if fault := cache_fault():  # over which the libraries would try again and again
        raise OSError(fault)
    try:
        with reported(lambda: f"{name} from the hub or its cache; Ctrl-C ends this, and with HF_HUB_OFFLINE=1 only the cache is read"):
            yield
    except OSError as error:
        if not is_forbidden(error):
            raise
        variable = next((variable for variable in OFFLINE if os.environ.get(variable)), OFFLINE[0])
        raise OSError(f"it is not in the cache, and {variable}={os.environ.get(variable, 1)} forbids the download: unset that variable") from error


def cache_fault() -> str | None:
    """The sentence about a variable that names a file, or a place within one, as the folder of downloads; None if there is none."""
    for variables in CACHES:
        variable = next((name for name in variables if os.environ.get(name)), "")
        place = Path(os.environ.get(variable, ".")).expanduser().absolute()
        if not next(path for path in (place, *place.parents) if path.exists()).is_dir():
            return f"the variable {variable} must name a folder, got {os.environ[variable]}; correct it, or unset it"
    return None


def is_forbidden(error: OSError) -> bool:
    """Whether something could not be fetched because a variable forbids downloads."""
    from huggingface_hub import constants, errors  # a tenth of a second, which only a failure has to wait for

    kinds = errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled
    unfetched = isinstance(error, kinds) or isinstance(error.__cause__, kinds)
    return (unfetched and constants.HF_HUB_OFFLINE) or errors.OfflineModeIsEnabled.__name__ in str(error)
