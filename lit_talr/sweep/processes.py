"""The commands of a sweep as processes that can be ended together."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lit_talr.utils.locks import Lock

COMMAND = [sys.executable, "-m", "lit_talr"]


class Failed(Exception):
    """A command that failed, in one sentence."""


class Stopped(Exception):
    """The sweep is to end; nothing is wrong with the point."""


class Processes:
    """Runs commands and ends them on request; threads share it.

    Args:
        threads: OMP_NUM_THREADS of each command where it is not set: workers that take all cores each would wait for each other.
    """

    def __init__(self, threads: int) -> None:
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.stopping = False
        self.children: set[subprocess.Popen[bytes]] = set()
        self.guard = threading.RLock()  # a signal may interrupt the thread that holds it

    def run_command(self, words: Sequence[str], log: Path, lock: Lock) -> None:
        """Run one command; its output goes to the log. It inherits the lock, so that it is not run twice even if this process is killed.

        Raises:
            Failed: If it failed.
            Stopped: If the sweep is to end.
        """
        with log.open("ab") as file:
            start = file.tell()
            with self.guard:
                if self.stopping:
                    raise Stopped
                child = subprocess.Popen(
                    [*COMMAND, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,  # signals of the terminal reach it through `stop` only
                    pass_fds=[lock.fileno()],
                )
                self.children.add(child)
            code = child.wait()
            with self.guard:
                self.children.remove(child)
        if code and self.stopping:
            raise Stopped
        if code:
            raise Failed(f"{words[0]} failed: {find_reason(log, start, code)}")

    def stop(self, hard: bool = False) -> None:
        """Start nothing more, and tell the running commands to end: ``fit`` saves itself first; hard, at once."""
        with self.guard:
            self.stopping = True
            for child in self.children:
                with suppress(ProcessLookupError):  # it has just ended
                    if hard:
                        os.killpg(child.pid, signal.SIGKILL)
                    else:
                        child.send_signal(signal.SIGTERM)


def find_reason(log: Path, start: int, code: int) -> str:
    """Why a command failed: the last sentence of lit-talr in its log, or else the last line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    sentences = [line.removeprefix("lit-talr:").strip() for line in lines if line.startswith("lit-talr:")]
    if sentences:
        return sentences[-1]
    ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{lines[-1]} ({ending})" if lines else ending
