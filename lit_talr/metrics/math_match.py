r"""Scores answers that are numbers or expressions, as those of MATH.

expected 3/4           "... so it is $\boxed{\frac{3}{4}}$."                right, a number
expected x^2 + 1       "The answer is: $x^2+1$"                             right, the same text
expected x^2 + 1       "The answer is: 1+x^2"                               wrong, though it is the same
"""

import re

from lit_talr.data.example import Example
from lit_talr.metrics.category_accuracy import CategoryAccuracy
from lit_talr.metrics.numeric_match import after_answer_is, find_number, last_box, number, plain, quantity

CATEGORIES = ("GSM", "MATH")

LAYOUT = re.compile(r"\s|\\?\$|\\left(?![A-Za-z])|\\right(?![A-Za-z])|(?<=\\)[dt](?=frac)")


class MathMatch(CategoryAccuracy):
    """The share of right answers: numbers by the rule of ``NumericMatch``, anything else by its text.

    Both are read from the sentence after the last "answer is:", with its colon the form that is asked for; without one from the whole answer: a text then is
    what the last box holds, else what follows the last "answer is", else the last line. Two texts count as the same where only white space, dollar signs and
    their kind, emphasis, a final full stop or LaTeX's layout (``\\left``, ``\\right``, ``\\dfrac`` for ``\\frac``, ``\\sqrt3`` for ``\\sqrt{3}``, ``\\text{}``)
    differ; nothing is worked out. The unit of a true answer may be left out (18 for ``18\\text{ cm}``). ``example.meta`` holds ``answer`` and ``category``,
    one of ``GSM`` and ``MATH``. ``compute`` gives ``score`` and ``accuracy`` (the same number; NaN before the first example), ``accuracy_se`` (its binomial
    standard error), ``num_examples``, and ``accuracy/<category>``.

    Raises:
        ValueError: In use, for another category, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.data.example import Example
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
            said = final_text(answer)
            text, amount = same_layout(said), quantity(truth)
            correct = text == same_layout(truth) != "" or (amount is not None and number(said) == amount)
            return {"extracted": text or None, "found": "text", "correct": correct}
        value, place = find_number(asked_for(answer))
        return {"extracted": None if value is None else str(value), "found": place, "correct": value == expected}


def asked_for(answer: str) -> str:
    """What is read of an answer: the sentence after its last "answer is:", where there is one, else all of it."""
    said = after_answer_is(answer, ":")
    return f"The answer is: {said}" if said else answer


def final_text(answer: str) -> str:
    """The text that an answer gives in the end, as it is written there."""
    answer = asked_for(answer)
    return last_box(answer).strip() or after_answer_is(answer) or answer.strip().rpartition("\n")[2].rpartition("####")[2].strip()


def same_layout(text: str) -> str:
    return LAYOUT.sub("", plain(text)).lstrip("*`").rstrip("*`.")
