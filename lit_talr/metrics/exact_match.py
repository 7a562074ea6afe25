"""Exact match, for domains without a rule of their own."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_talr.example import Example
from lit_talr.metrics.base import DomainMetric


class ExactMatch(DomainMetric):
    """Share of answers that equal ``example.meta["answer"]``, surrounding white space aside.

    ``judge`` says too whether an answer is right when read leniently: whether the right answer is what it ends with, whatever it says before, in whatever
    quotes and brackets. A model that was taught another way to answer can know the right one still.

    >>> from lit_talr.example import Example
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
        ending = re.search(rf"(?<![\w.-]){re.escape(right)}[^\w-]*$", said)
        return {"extracted": said, "correct": said == right, "lenient": said == right or ending is not None}
