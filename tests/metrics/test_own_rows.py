"""Metrics for rows of one's own: what each calls right."""

import pytest

from lit_talr.data.example import Example
from lit_talr.metrics import F1, ByGroup, Choice, Contains, ExactMatch, MathAnswer, NumericMatch
from lit_talr.metrics.base import DomainMetric


def example(answer: object, group: str = "") -> Example:
    return Example.from_prompt("?", "x", meta={"answer": answer, "group": group, "where": "a.csv: row 3"})


@pytest.mark.parametrize(
    ("metric", "answer", "right", "wrong"),
    [
        (ExactMatch(), ["a b", "b a"], ["a b", " b a "], ["b", "ab", "['a b', 'b a']"]),
        (Contains(), ["U.S.A.", "caf\u00e9"], ["in the u.s.a. today", "the Caf\u00c9"], ["usa", "cafeteria", ""]),
        (NumericMatch(), "9 + 9 = 18\n#### 18", ["It is 18."], ["81"]),
        (MathAnswer(), r"So it is $\boxed{\frac{3}{4}}$.", ["The answer is 0.75."], ["3/5", ""]),
        (MathAnswer(), ["x^2", "y"], ["The answer is: $x^2$", "y"], ["x^3"]),
        (Choice("ABCD"), "B", ["B", "(B)", "B. blue", "**B)** since", "Answer: B", "A? No.\nThe answer is (B).", r"so \boxed{\text{B}}"], []),
        (Choice("ABCD"), "A", ["A", "A)", r"\(\text{A}\)"], ["A dog is blue."]),
        (Choice("ABCD"), "The answer is (C).", ["C"], ["B", "c", "Cats", r"\text{B}", "C or D", "E", "", "A dog", "It is C."]),
    ],
)
def test_what_is_right(metric: DomainMetric, answer: object, right: list[str], wrong: list[str]) -> None:
    assert [metric.judge(response, example(answer))["correct"] for response in (*right, *wrong)] == [True] * len(right) + [False] * len(wrong)


def test_f1_is_that_of_squad() -> None:
    metric = F1()  # hand-counted: words 2 of 3 and 2 of 2 shared; the best of two answers; nothing shared
    metric.update(["The red, blue cup", "Paris", ""], [example("a red cup"), example(["Rome", "paris!"]), example("x")])
    scores = metric.compute()
    assert float(scores["score"]) == pytest.approx((0.8 + 1 + 0) / 3) and float(scores["exact_match"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("metric", "answer", "message"),
    [
        (Choice("AB"), "C", "a.csv: row 3: `answer` must be one of the letters AB, got 'C'; correct the row"),
        (ExactMatch(), [], "a.csv: row 3: `answer` must hold at least one right answer, got an empty list"),
        (NumericMatch(), ["1", "2"], "a.csv: row 3: `answer` must be a number"),
    ],
)
def test_a_row_that_cannot_be_scored(metric: DomainMetric, answer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.update([""], [example(answer)])


@pytest.mark.parametrize("letters", ["A", "AA", "ab"])
def test_letters_of_choices(letters: str) -> None:
    with pytest.raises(ValueError, match="`letters` must be at least two capital letters, none twice"):
        Choice(letters)


def test_groups_without_rows_have_no_score_and_reset_empties_all() -> None:
    metric = ByGroup(F1, {"a", "b", "c"})
    metric.update(["x", "y"], [example("x", "a"), example("x", "c")])
    assert set(metric.compute()) == {"score", "exact_match", "score/a", "score/c"}
    metric.reset()
    metric.update(["x"], [example("y", "b")])
    assert metric.compute() == {"score": 0, "exact_match": 0, "score/b": 0}
