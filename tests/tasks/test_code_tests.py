"""Programs and their tests; all of it without lm-evaluation-harness."""

import os
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lit_talr.tasks.code_tests import pass_at_k, passes

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
    "processes": "import os; found = [open(f'/proc/{one}/{name}').read() for one in ('self', os.getppid()) for name in ('cmdline', 'environ')]",
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
EXITS = ("import os; os._exit(0)", "import sys; sys.exit()", "raise SystemExit", "quit()", "import os; os.kill(os.getpid(), 9)", "import os; os.abort()")


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_program_that_says_all_it_finds_passes_no_failing_test(cheat: str) -> None:
    cheating = CHEATS[cheat] + SAY
    assert passes(f"{cheating}\ndef add(a, b):\n    return a + b", TESTS)
    assert not passes(f"{cheating}; os._exit(0)", TESTS)
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
