"""Exact match, for domains without a rule of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_talr.example import Example
from lit_talr.metrics.base import DomainMetric


class ExactMatch(DomainMetric):
    """Share of answers that equal ``example.meta["answer"]``, surrounding white space aside.

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
        return {"extracted": answer.strip(), "correct": answer.strip() == str(example.meta["answer"]).strip()}
