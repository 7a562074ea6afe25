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
