"""Scores responses to questions of GSM8K and MATH, by category."""

from lit_talr.data.example import Example
from lit_talr.metrics.base import CategoryAccuracy
from lit_talr.metrics.math_answer import judge_math


class MathMatch(CategoryAccuracy):
    """The share of right responses by the rule of ``MathAnswer``, overall and per category (see ``CategoryAccuracy``).

    ``example.meta`` holds ``answer``, alone, and ``category``, ``GSM`` or ``MATH``.
    """

    def __init__(self) -> None:
        super().__init__(("GSM", "MATH"))

    def judge(self, response: str, example: Example) -> dict[str, object]:
        return judge_math(response, str(example.meta["answer"]))
