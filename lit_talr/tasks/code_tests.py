"""Whether programs that a model wrote pass their tests, in place of the hub's metric ``code_eval``."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from math import comb
from pathlib import Path
from typing import Any

CPU_SECONDS = 3
"""Processor time of a program; ``code_eval`` limits the wall time to as much, which passes sooner on a busy machine."""
SECONDS = 20
"""Wall time of a program, with the start of the interpreter."""
START = f"""
import resource, runpy
for name, limit in (("CPU", {CPU_SECONDS}), ("AS", 4 << 30), ("FSIZE", 16 << 20), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
runpy.run_path("program.py", run_name="program")
"""


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
    """Whether a program and then its tests run to their end, in a separate process with an empty folder, no environment, and limits of time and memory.

    This is no sandbox: the code acts on files and the network as the user. The folder is removed afterwards, except files that are still being written.
    """
    mark, passed, folder = secrets.token_hex(16), False, ""  # the tests end by printing the mark, so an early exit is no pass
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            Path(folder, "program.py").write_text(f"{program}\n{tests}\nprint('\\n{mark}')\n", encoding="utf-8", errors="replace")
            output = Path(folder, "output")
            with output.open("wb") as file:
                ended = run_command([sys.executable, "-I", "-c", START], folder, file.fileno())
            passed = ended and output.is_file() and output.read_bytes().rstrip().endswith(mark.encode())
    except RecursionError:  # nested too deeply for Python to remove
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
    return passed


def run_command(command: Sequence[str], folder: str, output: int) -> bool:
    """Whether a command succeeds in time; the processes of its group end with it."""
    process = subprocess.Popen(command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(SECONDS) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def programs(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Each prompt with each of its responses appended."""
    return [[doc["prompt"] + text for text in texts] for texts, doc in zip(resps, docs, strict=True)]
