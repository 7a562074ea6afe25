"""Whether programs that a model wrote pass their tests, in place of the hub's metric ``code_eval``."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

from lit_talr.utils.collectives import is_rank_zero

logger = logging.getLogger(__name__)
SECONDS = 20
"""Wall time of a program and its tests, with the start of the interpreter."""
RUNNER = str(Path(__file__).with_name("run_tests.py"))
SEALED = ("--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run")
"""Options of bubblewrap: no network, no other processes, no sockets of services; all files can be read and none written."""


def pass_at_k(references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]) -> dict[str, float]:
    """The probability that at least one of k programs passes: 1 - C(n - c, k) / C(n, k) where c of n pass (Chen et al., arXiv:2107.03374).

    Returns the mean over problems for each k.

    Args:
        references: The tests of each problem, which run after a program.
        predictions: The programs of each problem.
        k: Numbers of programs.

    Raises:
        ValueError: For a k larger than the number of programs.
    """
    estimates: dict[str, list[float]] = {f"pass@{number}": [] for number in k}
    for tests, programs in zip(references, predictions, strict=True):
        if max(k) > len(programs):
            raise ValueError(f"`k`: pass@{max(k)} needs {max(k)} programs for each problem, got {len(programs)}; raise the task's `repeats`, or lower `k`.")
        passed = sum(passes(program, tests) for program in programs)
        for number in k:
            estimates[f"pass@{number}"].append(1 - comb(len(programs) - passed, number) / comb(len(programs), number))
    return {name: sum(values) / len(values) for name, values in estimates.items()}


def passes(program: str, tests: str) -> bool:
    """Whether a program and then its tests run to their end, in separate processes with an empty folder, no environment, and limits of time and memory.

    The tests run in a process of their own, call the program's functions, and see plain values of what they return: numbers, texts, lists, dictionaries and the
    like, also of what they raise only the error's name and text. So a program can neither say itself that it passes, nor return objects that equal everything,
    nor change what tests it. Tests of classes, or of changes to an argument, are not possible. The tests see Python's builtins; those that the program defines
    anew are hidden from them, unless the tests use the name outside functions.

    In the sandbox the program reads the user's files, writes into its folder alone, and has no network; without one it acts as the user. The folder is removed
    afterwards, except files that are still being written.
    """
    passed, folder = False, ""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            Path(folder, "program.py").write_text(f"{program}\n", encoding="utf-8", errors="replace")
            command = [*(sandbox(folder) if has_sandbox() else ()), sys.executable, "-I", RUNNER]
            passed = run_command(command, folder, tests.encode(errors="replace"))
    except RecursionError:  # nested too deeply for Python to remove
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
    return passed


@cache
def has_sandbox() -> bool:
    """Whether bubblewrap is installed and works here; where not, the log says so once."""
    problem = "bubblewrap (`bwrap`) is not installed"
    if shutil.which("bwrap"):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([*sandbox(folder), sys.executable, "-I", "-c", ""], env={}, capture_output=True, text=True)
        if done.returncode == 0:
            return True
        problem = f"bubblewrap does not work here ({done.stderr.strip() or f'exit status {done.returncode}'})"
    if is_rank_zero():
        logger.warning(f"Programs that the model writes run without a sandbox, as you: {problem}. Install it, or use a container without network.")
    return False


def sandbox(folder: str) -> list[str]:
    """The beginning of a command that can write into one folder alone."""
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    return [bwrap, *SEALED, "--bind", folder, folder, "--chdir", folder, "--remount-ro", "/dev", "--remount-ro", "/run"]


def run_command(command: Sequence[str], folder: str, content: bytes) -> bool:
    """Whether a command that reads some content succeeds in time; the processes of its group end with it."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, env={}, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            process.communicate(content, timeout=SECONDS)
            return process.returncode == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def programs(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Each prompt with each of its responses appended."""
    return [[doc["prompt"] + text for text in texts] for texts, doc in zip(resps, docs, strict=True)]
