"""Exact match, for domains without a rule of their own."""

import re

from lit_talr.data.example import Example
from lit_talr.metrics.base import CorrectShare, right_answers

WORD = re.compile(r"[\w-]++")


class ExactMatch(CorrectShare):
    """The share of responses that equal ``example.meta["answer"]``, or one of several there, apart from surrounding white space.

    ``judge`` also tells whether a response is right when read leniently: whether it ends with the right answer, whatever comes before, in whatever quotes
    and brackets. A model that was taught another form of answer can still know the right one.

    >>> from lit_talr.data.example import Example
    >>> metric = ExactMatch()
    >>> metric.update([" 7 "], [Example.from_prompt("3 + 4?", "7", meta={"answer": "7"})])
    >>> metric.compute()["score"]
    tensor(1.)
    """

    def judge(self, response: str, example: Example) -> dict[str, object]:
        text, answers = response.strip(), [answer.strip() for answer in right_answers(example)]
        correct = text in answers
        return {"extracted": text, "correct": correct, "lenient": correct or any(ends_with(text, answer) for answer in answers)}


def ends_with(text: str, answer: str) -> bool:
    """Whether a text ends with an answer that is not empty: only signs follow it, and it is no part of a word or a number, as 7 is of ``1/7`` and ``7!``.

    Takes time proportional to the text.
    """
    last_word_ends = max((word.end() for word in WORD.finditer(text)), default=0)
    no_factorial = "(?!!)" if answer[-1:].isdigit() else ""
    whole = re.compile(rf"(?<![\w.\u2212\u2013-])(?<!\d[,/^]){re.escape(answer)}{no_factorial}")
    return answer != "" and whole.search(text, max(0, last_word_ends - len(answer))) is not None
