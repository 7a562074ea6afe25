import time

import pytest

from lit_talr.data.example import Example
from lit_talr.metrics import ExactMatch


@pytest.mark.parametrize(
    ("truth", "answer", "correct", "lenient"),
    [
        ("7", " 7\n", True, True),
        ("7", "3 + 4 = 7", False, True),
        ("7", '3 + 4 = 7. {"answer": 7}', False, True),
        ("7", '{"answer": "7"}', False, True),
        ("7", "7 points", False, False),
        ("7", "17", False, False),
        ("7", "-7", False, False),
        ("7", "3.7", False, False),
        ("7", "7.5", False, False),
        ("7", "0,7", False, False),
        ("7", "1/7", False, False),
        ("7", "2^7", False, False),
        ("7", "7!", False, False),
        ("7", "\u22127", False, False),
        ("7", "\u20137", False, False),
        ("7", "5, 7", False, True),
        ("7", "x=7", False, True),
        ("red", "It is red!", False, True),
        ("7", "", False, False),
        ("red", "It is red.", False, True),
        ("red", "coloured", False, False),
        ("(40)", "(40)", True, True),
        ("(40)", "40", False, False),
        ("!", "! .!", False, True),
        (".", "no -.", False, False),
        ("", "", True, True),
        ("", " ", True, True),
        ("", "...", False, False),
        ("", "{}", False, False),
    ],
)
def test_an_answer_is_judged_exactly_and_leniently(truth: str, answer: str, correct: bool, lenient: bool) -> None:
    judge_responses = ExactMatch().judge(answer, Example.from_prompt("?", truth, meta={"answer": truth}))
    assert (judge_responses["correct"], judge_responses["lenient"]) == (correct, lenient)


@pytest.mark.parametrize("truth", ["!", "7", "!!", "a!"])
def test_time_is_proportional_to_the_length(truth: str) -> None:
    start = time.process_time()
    for piece in ("!", "7!", "a!", " "):
        ExactMatch().judge(f"x{piece * 50_000}x", Example.from_prompt("?", truth, meta={"answer": truth}))
    assert time.process_time() - start < 1
