import pytest
import torch

from lit_talr.data.example import Example
from lit_talr.metrics import WithinLimits

CATEGORIES = ("score", "formula")


def example(lower: str | None = "2.375", upper: str = "2.625", category: str = "formula") -> Example:
    meta = {"where": "row 7", "calculator": "invented", "category": category, "answer": "2.5", "lower": lower, "upper": upper}
    return Example.from_prompt("?", '{"answer": "2.5"}', meta=meta)


@pytest.mark.parametrize(
    ("answer", "extracted", "correct"),
    [
        ('{"answer": "2.5"}', "2.5", True),
        ('{"answer": 2.5}', "2.5", True),
        ('{"step_by_step_thinking": "9", "answer": "about 2.4"}', "2.4", True),
        ('{"answer": "2.375"}', "2.375", True),
        ('{"answer": "2.625"}', "2.625", True),
        ('{"answer": "2.374"}', "2.374", False),
        ('{"answer": "2.626"}', "2.626", False),
        ('{"answer": "9"} {"answer": "2.5"}', "2.5", True),
        ('{"answer": "2.5"} {"answer": "9"}', "9", False),
        ('{"answer": "-2.5"}', "-2.5", False),
        ('{"answer": "5/2"}', "2.5", True),
        ('{"answer": "2.5 points"}', "2.5", True),
        ('{"answer": "1.5 + 1 = 2.5"}', "2.5", True),
        ('{"answer": "2.5", "unit": "points"}', "2.5", True),
        ('{"answer": "10^2.5"}', None, False),
        ('{"answer": "1e2.5"}', None, False),
        ('{"answer": "0.1 + 2.5"}', None, False),
        ('{"answer": "1 to 2.5"}', None, False),
        ('{"answer": "2.5%"}', None, False),
        ('{"answer": "250%"}', None, False),
        ('{"answer": "7/2.5"}', "2.8", False),
        ('{"answer": "two"}', None, False),
        ('{"answer": "2.5', None, False),
        ("2.5", None, False),
        ("", None, False),
    ],
)
def test_reads_the_one_number_of_the_last_answer(answer: str, extracted: str | None, correct: bool) -> None:
    assert WithinLimits(CATEGORIES).judge(answer, example()) == {"extracted": extracted, "correct": correct}


def test_a_number_too_large_for_a_float_is_wrong() -> None:
    assert not WithinLimits(CATEGORIES).judge(f'{{"answer": "{"9" * 400}"}}', example())["correct"]


def test_shares_overall_and_by_category() -> None:
    metric = WithinLimits(CATEGORIES)
    metric.update(['{"answer": "2.5"}', '{"answer": "3"}'], [example(), example()])
    assert "accuracy/score" not in metric.compute()
    metric.update(['{"answer": "2.5"}', '{"answer": "2.6"}'], [example(category="score"), example(category="score")])
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores == pytest.approx(
        {"score": 0.75, "accuracy": 0.75, "accuracy_se": (0.75 * 0.25 / 4) ** 0.5, "num_examples": 4, "accuracy/score": 1.0, "accuracy/formula": 0.5}
    )


def test_nothing_scored_is_nan() -> None:
    metric = WithinLimits(CATEGORIES)
    metric.update([], [])
    assert metric.compute()["score"].isnan()


def test_counts_of_two_ranks_add_up() -> None:
    one, two, both = (WithinLimits(CATEGORIES) for _ in range(3))
    answers, examples = ['{"answer": "2.5"}', "", '{"answer": "2.4"}'], [example(), example(category="score"), example()]
    one.update(answers[:1], examples[:1])
    two.update(answers[1:], examples[1:])
    both.update(answers, examples)
    for state in ("correct", "total"):
        assert torch.equal(getattr(one, state) + getattr(two, state), getattr(both, state))
        assert one._reductions[state] is torch.sum or one._reductions[state].__name__ == "dim_zero_sum"


@pytest.mark.parametrize("categories", [(), ("score", "score")])
def test_refuses_categories(categories: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="`categories` must hold at least one name and none twice, got"):
        WithinLimits(categories)


def test_refuses_an_unknown_category_by_its_row() -> None:
    with pytest.raises(ValueError, match="row 7: `category` must be one of score, formula, got 'grade'"):
        WithinLimits(CATEGORIES).update([""], [example(category="grade")])


@pytest.mark.parametrize("limit", [None, "about 3", "nan"])
def test_refuses_a_limit_that_is_no_number_by_its_row(limit: str | None) -> None:
    with pytest.raises(ValueError, match="row 7: `lower` must be a finite number, as text, got"):
        WithinLimits(CATEGORIES).judge("", example(lower=limit))


def test_refuses_answers_without_examples() -> None:
    with pytest.raises(ValueError):
        WithinLimits(CATEGORIES).update(["", ""], [example()])
