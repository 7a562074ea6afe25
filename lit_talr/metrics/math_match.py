r"""Scores answers that are numbers or expressions, as those of MATH.

expected 3/4           "... so it is $\boxed{\frac{3}{4}}$."                right, a number
expected x^2 + 1       "The answer is: $x^2+1$"                             right, the same text
expected x^2 + 1       "The answer is: 1+x^2"                               wrong, though it is the same
"""

import re

from lit_talr.example import Example
from lit_talr.metrics.category_accuracy import CategoryAccuracy
from lit_talr.metrics.numeric_match import after_answer_is, find_number, last_box, number

CATEGORIES = ("GSM", "MATH")

LAYOUT = re.compile(r"\s|\$|\\!|\\left(?![A-Za-z])|\\right(?![A-Za-z])|(?<=\\)[dt](?=frac)")


class MathMatch(CategoryAccuracy):
    """The share of right answers: numbers by the rule of ``NumericMatch``, anything else by its text.

    The text of an answer is what follows the last "answer is" in its line, or what is boxed there; else the last box; else the last line. Two texts count
    as the same where only white space, dollar signs, a final full stop or LaTeX's layout (``\\!``, ``\\left``, ``\\right``, ``\\dfrac`` for ``\\frac``) differ;
    nothing is worked out. ``example.meta`` holds ``answer`` and ``category``, one of ``GSM`` and ``MATH``. ``compute`` gives ``score`` and ``accuracy`` (the
    same number; NaN before the first example), ``accuracy_se`` (its binomial standard error), ``num_examples``, and ``accuracy/<category>``.

    Raises:
        ValueError: In use, for another category, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.example import Example
    >>> example = Example.from_prompt("Expand it.", "The answer is: x^2 + 1", meta={"answer": "x^2 + 1", "category": "MATH"})
    >>> MathMatch().judge("Hence the answer is $x^2+1$.", example)
    {'extracted': 'x^2+1', 'found': 'text', 'correct': True}
    """

    def __init__(self) -> None:
        super().__init__(CATEGORIES)

    def category(self, example: Example) -> str:
        category = example.meta["category"]
        if category not in CATEGORIES:
            raise ValueError(f"{example.meta.get('where', 'an example')}: `category` must be one of {', '.join(CATEGORIES)}, got {category!r}.")
        return category

    def judge(self, answer: str, example: Example) -> dict[str, object]:
        truth = str(example.meta["answer"])
        expected = number(truth)
        if expected is None:
            text = same_layout(final_text(answer))
            return {"extracted": text or None, "found": "text", "correct": text == same_layout(truth) != ""}
        said, place = find_number(answer)
        return {"extracted": None if said is None else str(said), "found": place, "correct": said == expected}


def final_text(answer: str) -> str:
    said = after_answer_is(answer)
    return last_box(said) or said.strip() or last_box(answer) or answer.strip().rpartition("\n")[2]


def same_layout(text: str) -> str:
    return LAYOUT.sub("", text).rstrip(".")
