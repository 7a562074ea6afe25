import pytest

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


@pytest.mark.parametrize("limit", [None, "about 3", "nan"])
def test_refuses_a_limit_that_is_no_number_by_its_row(limit: str | None) -> None:
    with pytest.raises(ValueError, match="row 7: `lower` must be a finite number, as text, got"):
        WithinLimits(CATEGORIES).judge("", example(lower=limit))
