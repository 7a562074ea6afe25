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
from typing import IO, Any

CPU_SECONDS = 3
"""Processor time of a program; ``code_eval`` limits the wall time to as much, which passes sooner on a busy machine."""
SECONDS = 20
"""Wall time of a program, with the start of the interpreter."""
MARK_LENGTH = 32
START = f"""
import builtins, os, resource, sys, types
for name, limit in (("CPU", {CPU_SECONDS}), ("AS", 4 << 30), ("FSIZE", 16 << 20), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))

def codes():
    with open(0, "rb", closefd=False) as file:
        tests = compile(file.read(), "tests.py", "exec")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with open("program.py", "rb") as file:
        return compile(file.read(), "program.py", "exec"), tests

def names(own, tests, builtins):
    yield own
    kept = {{name: value for name, value in own.items() if name not in builtins or name.startswith("__") or name in tests.co_names}}
    yield kept | {{"__builtins__": builtins}}

def run(program, tests):
    sys.modules["program"] = module = types.ModuleType("program")
    module.__file__ = "program.py"
    any(map(exec, (program, tests), names(vars(module), tests, dict(vars(builtins)))))
    return b""

os.write(1, os.read(0, {MARK_LENGTH}) + run(*codes()))
"""
# Python evaluates the last line from left to right. While `run` runs, `os.write` as it was and the mark are values on the interpreter's stack alone:
# no file, argument, environment or variable holds the mark, the pipe that brought it is empty, and what the program replaces is not called.


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

    The process says so by a random mark, which it writes when the tests have ended without an error. The mark is in no file, argument, environment or
    variable that the program could read, so printing, an early exit or reading its own source is no pass. The tests see Python's builtins as they were
    before the program. Builtins that it defines anew are hidden from them, unless the tests use the name outside functions.

    This is no sandbox: the code acts on files and the network as the user. Nor is it proof against a program written to deceive, which shares a process with
    its tests: it can return objects that equal everything, replace functions of modules that the tests use, search the memory or trace the interpreter.
    The folder is removed afterwards, except files that are still being written.
    """
    mark, passed, folder = secrets.token_hex(MARK_LENGTH // 2).encode(), False, ""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as output:
            Path(folder, "program.py").write_text(f"{program}\n", encoding="utf-8", errors="replace")
            ended = run_command([sys.executable, "-I", "-c", START], folder, mark + tests.encode(errors="replace"), output)
            output.seek(0)
            passed = ended and mark in output.read()  # what the program printed is written after it, when the interpreter ends
    except RecursionError:  # nested too deeply for Python to remove
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
    return passed


def run_command(command: Sequence[str], folder: str, content: bytes, output: IO[bytes]) -> bool:
    """Whether a command that reads some content succeeds in time; the processes of its group end with it."""
    with subprocess.Popen(command, cwd=folder, env={}, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True) as process:
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
