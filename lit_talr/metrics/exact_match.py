"""Exact match, for domains without a rule of their own."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_talr.data.example import Example
from lit_talr.metrics.base import DomainMetric

WORD = re.compile(r"[\w-]++")


class ExactMatch(DomainMetric):
    """Share of answers that equal ``example.meta["answer"]``, surrounding white space aside.

    ``judge`` says too whether an answer is right when read leniently: whether the right answer is what it ends with, whatever it says before, in whatever
    quotes and brackets. A model that was taught another way to answer can know the right one still.

    >>> from lit_talr.data.example import Example
    >>> metric = ExactMatch()
    >>> metric.update([" 7 "], [Example.from_prompt("3 + 4?", "7", meta={"answer": "7"})])
    >>> metric.compute()["score"]
    tensor(1.)
    """

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Sequence[str], examples: Sequence[Example]) -> None:
        self.correct += sum(bool(self.judge(answer, example)["correct"]) for answer, example in zip(answers, examples, strict=True))
        self.total += len(answers)

    def compute(self) -> dict[str, Tensor]:
        return {"score": self.correct / self.total}

    def judge(self, answer: str, example: Example) -> dict[str, object]:
        said, right = answer.strip(), str(example.meta["answer"]).strip()
        return {"extracted": said, "correct": said == right, "lenient": said == right or ends_with(said, right)}


def ends_with(said: str, right: str) -> bool:
    """Whether nothing but signs follows the right answer, and it is no part of a word or a number, as 7 is of ``1/7`` and ``7!``; never for an empty one.

    Takes time proportional to the text.
    """
    last_word_ends = max((word.end() for word in WORD.finditer(said)), default=0)
    goes_on = "(?!!)" if right[-1:].isdigit() else ""
    whole = re.compile(rf"(?<![\w.\u2212\u2013-])(?<!\d[,/^]){re.escape(right)}{goes_on}")
    return right != "" and whole.search(said, max(0, last_word_ends - len(right))) is not None
