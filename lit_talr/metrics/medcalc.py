"""Scores responses to MedCalc-Bench.

Source of the rules: ``evaluation/run.py`` and ``evaluation/evaluate.py`` of https://github.com/ncbi-nlp/MedCalc-Bench at 20b10f9d (Khandekar et al.,
arXiv:2406.12036). Licence of the data set: CC-BY-SA 4.0.

    {"step_by_step_thinking": "(120 + 2 * 90) / 3", "answer": "100 mmHg"}     a response, here to calculator 5 (invented)

Deliberate differences from the official reading:

* Nothing is run as code: numbers are read by ``float`` (so "04" is 4, where ``eval`` fails), and what stands inside ``str(...)`` goes to ``number.calculate``,
  which supports fewer functions than Python; an expression that it cannot read is a wrong answer, as one that ``eval`` cannot read is.
* Digits are 0 to 9. Those of other scripts are not digits, so they never make an answer right.
* A number of weeks is never torn in two ("14 weeks" is one number; the official expression reads 1 week and 4 days).

Unchanged: any key that ends in ``answer`` is read, a field that is not closed by ``}`` in its line is not found (so indented JSON has no answer),
a thousands comma separates two numbers, outside ``str`` 1e3 is the two numbers 1 and 3 and 1/100 the two numbers 1 and 100, and of several numbers the last
one counts.
"""

import math
import re
from collections.abc import Callable
from datetime import date
from typing import Any

from lit_talr.data.example import Example, place
from lit_talr.metrics.base import CategoryAccuracy
from lit_talr.metrics.number import calculate

RULES: dict[str, frozenset[int]] = {
    "date": frozenset({13, 68}),
    "weeks_days": frozenset({69}),
    "integer": frozenset({4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51}),
    "decimal_range": frozenset({2, 3, *range(5, 12), 19, 22, 23, 24, 26, 30, 31, 38, 39, 40, 44, 46, 49, *range(56, 68)}),
}
CATEGORIES = ("lab", "physical", "date", "dosage", "risk", "severity", "diagnosis")
PLACEHOLDERS = {"str(short_and_direct_answer_of_the_question)", "str(value which is the answer to the question)", "X.XX"}

# Every expression below takes time proportional to the text: a repetition is possessive (`++`), and does not begin inside a number.
FIELD = re.compile(r'[Aa]nswer":')
DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
WEEKS_DAYS = re.compile(r"(?<![0-9])([0-9]++)\s*+(?:weeks?)?,?\s*+([0-9]++)")
OUT_OF = re.compile(r"(?<![0-9])([0-9]++) out of")
LIST = re.compile(r"(?:-|(?<![0-9]))[0-9]++(?:, ?-?[0-9]++)+")
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
RATE = re.compile(r"((?:-|(?<![0-9]))[0-9]++(?:\.[0-9]++)?)\s*+mL/min/1\.73")
PERCENT = re.compile(r"((?:-|(?<![0-9]))[0-9]++(?:\.[0-9]++)?)%")
UNITS = re.compile(r"(?<![A-Za-z])(?:mg/dl|g/dl|mmol/L|mEq/L|kg|g)(?![A-Za-z])")


def read_date(text: str) -> str | None:
    match = DATE.match(text)
    try:
        return f"{date(int(match[3]), int(match[1]), int(match[2])):%m/%d}/{match[3]}" if match else None
    except ValueError:  # no such day
        return None


def read_weeks_days(text: str) -> str | None:
    match = WEEKS_DAYS.search(re.sub(r"[\"'\[\]]", "", text))
    return f"({match[1].lstrip('0') or 0}, {match[2].lstrip('0') or 0})" if match else None


def read_integer(text: str) -> str | None:
    if match := OUT_OF.search(text):
        return match[1]
    if match := LIST.search(text):
        return str(match[0].count(",") + 1)
    return last_number(text)


def read_decimal(text: str) -> str | None:
    start, end = text.find("str("), text.rfind(")")
    if 0 <= start < end:
        expression = UNITS.sub("", text[start + len("str(") : end].split("#")[0])
        unclosed = expression.count("(") - expression.count(")")
        value = calculate("(" * -unclosed + expression + ")" * unclosed)
        return None if value is None else repr(value)
    if match := RATE.search(text):
        return match[1]
    if percents := PERCENT.findall(text):
        return repr(float(percents[-1]) / 100)
    return last_number(text)


def last_number(text: str) -> str | None:
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None


READERS: dict[str, Callable[[str], str | None]] = {
    "date": read_date,
    "weeks_days": read_weeks_days,
    "integer": read_integer,
    "decimal_range": read_decimal,
}


def rule_of(calculator_id: int) -> str:
    """Returns the rule that scores a calculator's answers, a key of ``RULES``; ``ValueError`` for a calculator that MedCalc-Bench does not have."""
    for rule, ids in RULES.items():
        if calculator_id in ids:
            return rule
    raise ValueError(f"`calculator_id` must be one of MedCalc-Bench's 55 calculators, got {calculator_id!r}; look for a row from another data set.")


def extract_answer(text: str, calculator_id: int) -> str | None:
    """Extracts the answer of a response, in the form of the calculator's rule (MM/DD/YYYY, (weeks, days) or a number); None where there is none.

    The field stands between the last ``"answer":`` or ``"Answer":`` that a ``}`` follows in the value's line, and that ``}``. Never raises on any text, and
    takes time proportional to its length.
    """
    reader = READERS[rule_of(calculator_id)]
    value = last_field(text)
    if value is None:
        return None
    value = value.strip().strip('"')
    return None if value in PLACEHOLDERS else reader(value)


def last_field(text: str) -> str | None:
    """Returns the value of the last JSON field whose key ends in "answer"."""
    following = len(text)  # where the next key begins
    for key in reversed(list(FIELD.finditer(text))):
        brace = text.find("}", key.end(), following)
        if brace >= 0 and "\n" not in (value := text[key.end() : brace].lstrip()):
            return value
        following = key.start()
    return None


def is_correct(extracted: str | None, calculator_id: int, truth: str, lower: str | None = None, upper: str | None = None) -> bool:
    """Whether an extracted answer is right; ``lower`` and ``upper`` are used by decimal ranges alone.

    Raises:
        ValueError: For an unknown calculator, and for a truth or a limit that cannot be read: an error in the data, not of the model.
    """
    rule = rule_of(calculator_id)
    if rule in ("date", "weeks_days"):
        expected = READERS[rule](truth)
        if expected is None:
            raise ValueError(f"`answer` must follow the rule {rule} of calculator {calculator_id}, got {truth!r}.")
        return extracted is not None and READERS[rule](extracted) == expected
    value = as_number(extracted)
    if rule == "integer":
        whole = stored_number("answer", truth, calculator_id)
        return value is not None and round(value) == whole
    low, high = stored_number("lower", lower, calculator_id), stored_number("upper", upper, calculator_id)
    return value is not None and low <= value <= high


def as_number(text: Any) -> float | None:
    """Reads a finite number, None where there is none."""
    try:
        value = float(text)
    except (OverflowError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def stored_number(name: str, text: str | None, calculator_id: int) -> float:
    value = as_number(text)
    if value is None:
        raise ValueError(f"`{name}` must be a finite number for calculator {calculator_id}, got {text!r}.")
    return value


class MedCalcAccuracy(CategoryAccuracy):
    """MedCalc-Bench's accuracy, overall and per category (see ``CategoryAccuracy``), by the official rules; the module's text tells where the reading differs.

    ``example.meta`` holds ``calculator_id``, ``answer`` (the truth), ``lower``, ``upper`` and ``category``; the long names of two categories
    (``lab test``, ``dosage conversion``) count as ``lab`` and ``dosage``.

    Raises:
        ValueError: For an unknown calculator or category, or a truth or limit that cannot be read, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.data.example import Example
    >>> meta = {"calculator_id": 5, "answer": "100.0", "lower": "95.0", "upper": "105.0", "category": "physical"}
    >>> example = Example.from_prompt("What is the mean arterial pressure?", '{"answer": "100.0"}', meta=meta)
    >>> metric = MedCalcAccuracy()
    >>> metric.judge('{"answer": "about 97.5 mmHg"}', example)
    {'extracted': '97.5', 'correct': True, 'rule': 'decimal_range'}
    >>> metric.update(['{"answer": "about 97.5 mmHg"}', "I cannot tell."], [example, example])
    >>> metric.compute()["score"]
    tensor(0.5000)
    """

    other_names = {"lab test": "lab", "dosage conversion": "dosage"}

    def __init__(self) -> None:
        super().__init__(CATEGORIES)

    def judge(self, response: str, example: Example) -> dict[str, object]:
        meta = example.meta
        try:
            extracted = extract_answer(response, meta["calculator_id"])
            correct = is_correct(extracted, meta["calculator_id"], meta["answer"], meta["lower"], meta["upper"])
        except ValueError as error:
            raise ValueError(f"{place(example)}{error}") from error
        return {"extracted": extracted, "correct": correct, "rule": rule_of(meta["calculator_id"])}
