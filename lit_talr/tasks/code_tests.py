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
"""What a program may compute; ``code_eval`` gives it as many seconds on the wall, which pass sooner on a busy machine."""
SECONDS = 20
"""What it may take in all, with the start of the interpreter."""
START = f"""
import resource, runpy
for name, most in (("CPU", {CPU_SECONDS}), ("AS", 4 << 30), ("FSIZE", 16 << 20), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
runpy.run_path("program.py", run_name="program")
"""


def pass_at_k(references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]) -> dict[str, float]:
    """The chance that of k programs at least one passes: 1 - C(n - c, k) / C(n, k) where c of n pass (Chen et al., arXiv:2107.03374); mean over problems.

    Args:
        references: The tests of each problem, to be run after a program.
        predictions: The programs of each problem.
        k: Of how many programs.

    Raises:
        ValueError: For a k of more programs than there are.
    """
    found: dict[str, list[float]] = {f"pass@{number}": [] for number in k}
    for tests, programs in zip(references, predictions, strict=True):
        if max(k) > len(programs):
            raise ValueError(f"`k`: pass@{max(k)} is of {max(k)} programs for each problem, got {len(programs)}; raise the task's `repeats`, or lower `k`.")
        passed = sum(passes(program, tests) for program in programs)
        for number in k:
            found[f"pass@{number}"].append(1 - comb(len(programs) - passed, number) / comb(len(programs), number))
    return {name: sum(values) / len(values) for name, values in found.items()}


def passes(program: str, tests: str) -> bool:
    """Whether a program and then its tests run to their end, in a process of their own: an empty folder, no environment, limits of time and memory.

    That is no sandbox: what the code does to files and over the network, it does as the user. The folder goes, but for what still writes there.
    """
    mark, passed, folder = secrets.token_hex(16), False, ""  # the mark: an early exit is no pass
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            Path(folder, "program.py").write_text(f"{program}\n{tests}\nprint('\\n{mark}')\n", encoding="utf-8", errors="replace")
            output = Path(folder, "output")
            with output.open("wb") as file:
                ended = run([sys.executable, "-I", "-c", START], folder, file.fileno())
            passed = ended and output.is_file() and output.read_bytes().rstrip().endswith(mark.encode())
    except RecursionError:  # folders in folders, too many for Python to remove
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
    return passed


def run(command: Sequence[str], folder: str, output: int) -> bool:
    """Whether a command ends well in time; what it started ends with it, but for what has left its process group, which has the same limits."""
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
    """Prompts with what the model wrote after them."""
    return [[doc["prompt"] + text for text in texts] for texts, doc in zip(resps, docs, strict=True)]
