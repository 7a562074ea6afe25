"""The table beside this file was written by hand from the official rules; its notes' values are invented, none is a row of the data set."""

import csv
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_talr.data.example import Example
from lit_talr.metrics.medcalc import CATEGORIES, RULES, MedCalcAccuracy, extract_answer, is_correct
from lit_talr.metrics.number import calculate
from tests.helpers.params import first_is_fast

with open(Path(__file__).with_name("medcalc_answers.csv"), newline="", encoding="utf-8") as file:
    TABLE = list(csv.DictReader(file))
IDS = sorted(set().union(*RULES.values()))
ONE_PER_RULE = [13, 69, 4, 5]


def question(calculator_id: int = 5, category: str = "physical", answer: str = "100", **meta: str) -> Example:
    limits = {"lower": "95", "upper": "105"}
    return Example.from_prompt("?", "!", meta={"calculator_id": calculator_id, "answer": answer, "category": category, **limits, **meta})


@pytest.mark.parametrize("row", TABLE, ids=[f"{line}-{row['calculator_id']}-{row['why']}" for line, row in enumerate(TABLE, start=2)])
def test_hand_written_answer(row: dict[str, str]) -> None:
    calculator_id = int(row["calculator_id"])
    extracted = extract_answer(row["answer_text"], calculator_id)
    correct = is_correct(extracted, calculator_id, row["truth"], row["lower"], row["upper"])
    assert correct == bool(int(row["correct"])), f"{row['answer_text']!r} read as {extracted!r} against {row['truth']!r}: {row['why']}"


def test_the_table_has_a_right_and_a_wrong_answer_for_every_calculator() -> None:
    assert len(IDS) == 55 and sum(map(len, RULES.values())) == 55
    assert {(int(row["calculator_id"]), row["correct"]) for row in TABLE} == {(number, correct) for number in IDS for correct in "01"}


@pytest.fixture
def published() -> Path:
    if "LIT_TALR_DATA" not in os.environ:
        pytest.skip("LIT_TALR_DATA is not set")
    return Path(os.environ["LIT_TALR_DATA"]) / "medcalc"


def test_published_truths_score_100_percent_and_their_neighbours_0(published: Path) -> None:
    rows = pytest.importorskip("pandas").read_parquet(published / "test_v1.0.parquet").to_dict("records")
    examples = [question(int(r["Calculator ID"]), r["Category"], r["Ground Truth Answer"], lower=r["Lower Limit"], upper=r["Upper Limit"]) for r in rows]
    metric = MedCalcAccuracy()
    metric.update([json.dumps({"step_by_step_thinking": "...", "answer": example.meta["answer"]}) for example in examples], examples)
    scores = metric.compute()
    assert scores["num_examples"] == len(rows) == 1047
    assert {name for name, score in scores.items() if score == 1} == {"score", "accuracy", *(f"accuracy/{category}" for category in CATEGORIES)}
    neighbours = {"date": "1/1/1800", "weeks_days": "(99, 9)"}
    for example in examples:
        rule = metric.judge("", example)["rule"]
        near = neighbours.get(str(rule)) or str(float(example.meta["answer"]) + 0.06 * abs(float(example.meta["answer"])) + 1)
        assert not metric.judge(json.dumps({"answer": near}), example)["correct"], (near, example.meta)


def test_rules_are_those_of_the_published_table(published: Path) -> None:
    with open(published / "calculators.csv", newline="") as file:
        expected = {int(row["calculator_id"]): row["rule"] for row in csv.DictReader(file)}
    assert {number: rule for rule, numbers in RULES.items() for number in numbers} == expected


def test_long_names_of_categories_count_as_the_short_ones() -> None:
    responses = ['{"answer": "100"}', '{"answer": "90"}', "", '{"answer": "101"}', '{"answer": "99"}']
    metric = MedCalcAccuracy()
    metric.update(responses, [question(category=category) for category in ("lab", "physical", "lab test", "dosage conversion", "lab")])
    expected = {"score": 3 / 5, "accuracy": 3 / 5, "accuracy_se": (0.6 * 0.4 / 5) ** 0.5, "num_examples": 5}
    expected |= {"accuracy/lab": 2 / 3, "accuracy/physical": 0, "accuracy/dosage": 1}
    assert {name: score.item() for name, score in metric.compute().items()} == pytest.approx(expected)


def test_judge_says_what_was_read() -> None:
    assert MedCalcAccuracy().judge('{"answer": "50%"}', question()) == {"extracted": "0.5", "correct": False, "rule": "decimal_range"}
    assert MedCalcAccuracy().judge("?", question(13, answer="01/02/2003")) == {"extracted": None, "correct": False, "rule": "date"}


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (question(12), "`calculator_id` must be one of MedCalc-Bench's 55 calculators, got 12"),
        (question(category="surgery"), "`category` must be one of lab, physical, .*, got 'surgery'"),
        (question(4, answer="four", where="test.csv row 3"), "test.csv row 3: `answer` must be a finite number for calculator 4, got 'four'"),
        (question(13, answer="2020"), "`answer` must follow the rule date of calculator 13, got '2020'"),
        (question(upper="nan"), "`upper` must be a finite number for calculator 5, got 'nan'"),
    ],
)
def test_refuses_bad_data_but_never_a_bad_answer(example: Example, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedCalcAccuracy().update([""], [example])


LONG = 100_000
PIECES = [
    *("1", "1.", "-", "1-", "1,", ", 1", "1 ", " ", '"', "(", ")", "str(", "(1", "1**", "-(", "9%", "round(", "{", '"answer":'),
    *("/", "1/", "weeks", "\\", "#", "\u0661", "\n"),
]


@pytest.mark.parametrize("calculator_id", first_is_fast(*ONE_PER_RULE))
def test_time_is_proportional_to_the_length(calculator_id: int) -> None:
    for piece in PIECES:
        body = piece * (LONG // len(piece))
        for text in (f'{{"answer": "{body}"}}', f'{{"answer": str({body})}}', f'{{"answer": {body}'):
            start = time.process_time()
            is_correct(extract_answer(text, calculator_id), calculator_id, *truth_of(calculator_id))
            assert time.process_time() - start < 1, f"{piece!r} repeated"


def truth_of(calculator_id: int) -> tuple[str, str, str]:
    return {13: "01/02/2003", 68: "01/02/2003", 69: "('4 weeks', '1 days')"}.get(calculator_id, "3"), "2.85", "3.15"


PLAIN = st.text(max_size=200)
LIKELY = st.lists(
    st.sampled_from([*PIECES, "}", "0", "13/45/2020", "1e400", "10^400", "9**9**9", "inf", "nan", " out of ", "mL/min/1.73", "÷", "\0"]), max_size=40
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(PLAIN, LIKELY.map("".join)), st.sampled_from(IDS))
def test_no_text_raises(text: str, calculator_id: int) -> None:
    for answer in (text, f'{{"answer": "{text}"}}', f'{{"answer": str({text})}}'):
        start = time.process_time()
        extracted = extract_answer(answer, calculator_id)
        assert is_correct(extracted, calculator_id, *truth_of(calculator_id)) in (True, False)
        assert time.process_time() - start < 1


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.integers(1, 99).map(str), lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda t: f"({t[0]}{t[1]}-{t[2]})")
    )
)
def test_arithmetic_equals_python(expression: str) -> None:
    try:
        expected = float(eval(expression))  # made here, of numbers and signs alone
    except ZeroDivisionError:
        expected = None
    assert calculate(expression) == (None if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-6))


@pytest.mark.parametrize("expression", ["\u0663", "1 + \uff11", "\u00b2", "1_000", "inf", "nan"])
def test_arithmetic_has_the_digits_0_to_9_alone(expression: str) -> None:
    assert calculate(expression) is None


@pytest.mark.parametrize("expression", ["round(int(5), -99999999)", "round(int(1), -1e18)", "round(5, -1e308)", "int(1e308) * int(1e308)", "10**10**10"])
def test_arithmetic_never_makes_a_huge_integer(expression: str) -> None:
    start = time.process_time()
    assert calculate(expression) in (None, 0)
    assert time.process_time() - start < 1
