"""Long work: a bar on a terminal, and a line every few minutes in a file or a pipe."""

import time
from collections.abc import Generator, Iterable
from datetime import datetime
from operator import length_hint
from typing import TypeVar

import rich.progress
from rich import get_console
from rich.console import Console

MINUTES = 5.0
"""Between two lines."""
T = TypeVar("T")


def can_draw(console: Console) -> bool:
    """Whether there is a terminal, or a notebook, to draw a bar on; colours that are forced into a file do not make it a terminal."""
    return console.is_jupyter or (console.is_interactive and console.file.isatty())


def print_line(text: str, console: Console) -> None:
    """Prints and flushes a line with the time, above the bar where there is one."""
    console.print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True)


def track(items: Iterable[T], title: str, total: int | None = None, show: bool = True, console: Console | None = None) -> Generator[T]:
    """Yields the items, and shows meanwhile how many are done. Close it where the loop may fail, so that the bar goes.

    Args:
        items: The items.
        title: Name of the work.
        total: Their number, where they do not know it themselves.
        show: False shows nothing, as on ranks other than 0.
        console: Where it is shown; standard output by default.
    """
    console, total = console or get_console(), length_hint(items) if total is None else total
    if show and can_draw(console):
        yield from rich.progress.track(items, title, total, transient=True, console=console)
        return
    last = time.monotonic()
    for number, item in enumerate(items):
        if show and time.monotonic() - last >= 60 * MINUTES:
            print_line(f"{title}: {number:,} of {total:,}", console)
            last = time.monotonic()
        yield item
