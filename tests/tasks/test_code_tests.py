"""Programs and their tests; all of it without lm-evaluation-harness."""

import logging
import os
import shutil
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lit_talr.tasks.code_tests import has_sandbox, pass_at_k, passes

PROBLEM = {
    "task_id": "X/0",
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
}
TESTS = PROBLEM["test"] + "\ncheck(add)"


def test_programs_pass_that_run_their_tests_to_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lit_talr.tasks.code_tests.SECONDS", 1)
    for body, passed in (
        ("return a + b", True),
        ("return a * b", False),
        ("return", False),
        ("while True: pass", False),
        ("import os; os._exit(0)", False),
        ("import sys; sys.exit()", False),
        ("a = (", False),
        ("import os; return a + b if not os.environ.get('HOME') and not os.listdir('.')[2:] else 0", True),
    ):
        assert passes(f"{PROBLEM['prompt']}    {body}\n", TESTS) is passed, body


CHEATS = {
    "source": "import os; found = [open(__file__).read(), *(open(name, 'rb').read() for name in os.listdir('.'))]",
    "arguments and environment": "import os, sys; found = [sys.argv, sys.orig_argv, os.environ]",
    "processes": """
import os
found = []
for one in ("self", os.getppid()):
    for name in ("cmdline", "environ"):
        try:
            found.append(open(f"/proc/{one}/{name}").read())
        except OSError:
            pass
""",
    "memory": """
import os
found = []
for one in ("self", os.getppid()):
    try:
        areas = [line.split()[0].split("-") for line in open(f"/proc/{one}/maps") if "rw" in line]
        with open(f"/proc/{one}/mem", "rb") as file:
            for first, last in areas[:30]:
                file.seek(int(first, 16))
                found.append(file.read(min(int(last, 16) - int(first, 16), 1 << 18)))
    except (OSError, ValueError):
        pass
""",
    "standard input": "import sys; found = sys.stdin.read()",
    "open files": """
import os
found = []
for number in range(10):
    for read in (lambda: os.read(number, 1000), lambda: os.pread(number, 1000, 0), lambda: open(f"/proc/self/fd/{number}", "rb").read(1000)):
        try:
            found.append(read())
        except OSError:
            pass
""",
    "variables": """
import sys
found, frame = [], sys._getframe()
while frame:
    found += [dict(frame.f_locals), dict(frame.f_globals), frame.f_code.co_consts]
    frame = frame.f_back
""",
    "objects": "import gc; found = [one for one in gc.get_objects() if isinstance(one, (list, tuple, dict))]",
}
"""Programs that look for the mark."""
SAY = "\nimport os, re, sys; print(*re.findall('[0-9a-f]{32}', repr(found)), sep='\\n'); sys.stdout.flush()"
INTO_EVERY_FILE = """
import os, re
for number in range(20):
    for word in {*re.findall("[0-9a-f]{32}", repr(found)), "0", "True", "passed"}:
        try:
            os.write(number, word.encode())
        except OSError:
            pass
"""
EXITS = ("import os; os._exit(0)", "import sys; sys.exit()", "raise SystemExit", "quit()", "import os; os.kill(os.getpid(), 9)", "import os; os.abort()")


@pytest.mark.parametrize("cheat", [pytest.param(cheat, marks=pytest.mark.slow) if cheat == "memory" else cheat for cheat in CHEATS])
def test_a_program_that_says_all_it_finds_passes_no_failing_test(cheat: str) -> None:
    cheating = CHEATS[cheat] + SAY
    assert passes(f"{cheating}\ndef add(a, b):\n    return a + b", TESTS)
    assert not passes(f"{cheating}; os._exit(0)", TESTS)
    assert not passes(f"{CHEATS[cheat]}\n{INTO_EVERY_FILE}", TESTS)
    assert not passes(f"def add(a, b):\n    exec({cheating!r}, globals())\n    os._exit(0)", TESTS)


@pytest.mark.parametrize("leave", EXITS)
def test_a_program_that_leaves_early_does_not_pass(leave: str) -> None:
    assert not passes(leave + "\ndef add(a, b):\n    return a + b", TESTS)
    assert not passes(f"def add(a, b):\n    {leave}", TESTS)


@pytest.mark.parametrize(
    "replaced",
    [
        "import builtins\nbuiltins.exec = builtins.compile = builtins.any = builtins.map = print",
        "import os, __main__\nos.write = print\n__main__.run = __main__.codes = __main__.names = print",
        "import sys, os\nsys.excepthook = lambda *_: os._exit(0)",
        "import builtins\nbuiltins.abs = lambda _: 0",
        "globals()['__builtins__']['abs'] = lambda _: 0",
        "abs = lambda _: 0",
        "def check(candidate):\n    pass",
        'text = """',
    ],
)
def test_what_a_program_replaces_is_not_what_tests_it(replaced: str) -> None:
    tests = "def check(candidate):\n    assert abs(candidate(2, 3) - 5) < 1\ncheck(add)"
    assert not passes(f"{replaced}\ndef add(a, b):\n    return 0", tests)


EQUAL = """
class Equal(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def add(a, b): return Equal(0)
"""
TESTER = """
import gc, os, sys, ctypes
def add(a, b):
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/mem", "r+b") as file:
            file.write(b"")
            file.seek(int(open(f"/proc/{parent}/maps").readline().split("-")[0], 16))
            file.read(1)
        return 5  # it could change what it is judged by
    except OSError:
        pass
    if ctypes.CDLL(None).ptrace(16, parent, 0, 0) == 0:  # PTRACE_ATTACH
        return 5
    return 0
"""


@pytest.mark.parametrize("program", [EQUAL, TESTER], ids=["equals everything", "changes its tester"])
def test_a_program_cannot_deceive_its_tests(program: str) -> None:
    assert not passes(program, TESTS)


def test_a_program_never_sees_its_tests() -> None:
    program = """
import gc, os, sys
seen = repr([os.listdir("."), sys.argv, sys.stdin.read(), gc.get_objects()])
def add(a, b):
    return 5 if "candidate" + chr(40) + "2" in seen else 0
"""
    assert not passes(program, TESTS)


def test_results_and_errors_are_plain() -> None:
    tests = """
assert two() == (1, [2.5, {"a": None}], {3}) and type(two()[0]) is int
assert list(count()) == [0, 1, 2] and CONSTANT == [1] and math.floor(1.5) == 1 and scalar() == 3
try:
    wrong()
except ValueError as error:
    assert str(error) == "no"
else:
    assert False
assert keyword(b=2, a=1) == -1
"""
    program = """
import enum, math
import numpy as np
class Small(enum.IntEnum):
    ONE = 1
class No(ValueError): pass
CONSTANT = [1]
def two(): return Small.ONE, [2.5, {"a": None}], {3}
def count(): yield from range(3)
def scalar(): return np.int64(3)
def wrong(): raise No("no")
def keyword(a, b): return a - b
"""
    assert passes(program, tests)
    assert not passes(program.replace("1, [2.5", "1, [2.6"), tests.replace("2.5", "2.4"))


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_in_the_sandbox_a_program_writes_into_its_folder_alone(tmp_path: Path) -> None:
    if not has_sandbox():
        pytest.skip("bubblewrap does not work here")
    outside = tmp_path / "outside"
    places = [str(outside), "/tmp/lit_talr_outside", "/dev/shm/lit_talr_outside", "/run/lit_talr_outside", os.path.expanduser("~/.lit_talr_outside")]
    program = f"""
import os, socket, tempfile
open("inside", "w").write("a")
written = []
for place in {places!r}:
    try:
        open(place, "w").close()
        written.append(place)
    except OSError:
        pass
others = [name for name in os.listdir("/proc") if name.isdigit()]
try:
    socket.create_connection(("127.0.0.1", 1), 1)
except OSError as error:
    network = error.errno
def add(a, b):
    return 5 if not written and len(others) <= 4 else 0
"""
    assert passes(program, TESTS)
    assert not any(os.path.exists(place) for place in places)


def test_without_a_sandbox_this_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PATH", "")
    has_sandbox.cache_clear()
    with caplog.at_level(logging.WARNING, "lit_talr"):
        assert passes("def add(a, b):\n    return a + b", TESTS) and passes("def add(a, b):\n    return b + a", TESTS)
    has_sandbox.cache_clear()
    (sentence,) = [record.getMessage() for record in caplog.records]
    assert "without a sandbox" in sentence and "bubblewrap (`bwrap`) is not installed" in sentence


def test_a_function_may_have_the_name_of_a_builtin() -> None:
    assert passes("def pow(a, b):\n    return 7", "def check(candidate):\n    assert candidate(2, 3) == 7\ncheck(pow)")
    assert not passes("def pow(a, b):\n    return 7", "def check(candidate):\n    assert candidate(2, 3) == 8\ncheck(pow)")


@pytest.mark.slow
@pytest.mark.skipif("LIT_TALR_DATA" not in os.environ, reason="needs the real benchmarks")
def test_all_solutions_of_humaneval_pass_and_none_of_their_prompts() -> None:
    problems = pd.read_json(Path(os.environ["LIT_TALR_DATA"], "humaneval", "HumanEval.jsonl.gz"), lines=True).to_dict("records")
    tests = [f"{problem['test']}\ncheck({problem['entry_point']})" for problem in problems]
    failed = [one["task_id"] for one, test in zip(problems, tests, strict=True) if not passes(one["prompt"] + one["canonical_solution"], test)]
    assert failed == [] and len(problems) == 164
    assert not any(passes(one["prompt"] + "    pass\n", test) for one, test in zip(problems[:20], tests, strict=False))


def test_pass_at_k_is_the_share_of_choices_with_one_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.tasks.code_tests.passes", lambda program, tests: program == "right")
    programs = [["right", "wrong", "right", "wrong", "wrong"], ["wrong"] * 5]
    for k in (1, 2, 4, 5):
        naive = np.mean([np.mean([any(one == "right" for one in chosen) for chosen in combinations(part, k)]) for part in programs])
        assert pass_at_k(["", ""], programs, [k]) == {f"pass@{k}": pytest.approx(naive)}


def test_more_programs_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"`k`: pass@2 needs 2 programs for each problem, got 1; raise the task's `repeats`, or lower `k`\."):
        pass_at_k([""], [["pass"]], [1, 2])


LEAVES_ITS_GROUP = """
import os, time
folder = os.getcwd()
if os.fork() == 0:
    os.setsid()
    number, end = 0, time.time() + 1
    while time.time() < end:
        os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT))
        number += 1
    os._exit(0)
time.sleep(0.2)
"""


def test_what_a_program_leaves_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert passes("import os\nfor _ in range(1200):\n    os.mkdir('a'); os.chdir('a')", "pass")
    assert not list(tmp_path.iterdir())
    assert passes(LEAVES_ITS_GROUP, "pass")  # and the child goes on writing while its folder is removed
