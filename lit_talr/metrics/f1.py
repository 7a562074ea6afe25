"""Scores responses by the words that they share with the right answer."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.text import squad

from lit_talr.data.example import Example
from lit_talr.metrics.base import DomainMetric, right_answers


class F1(DomainMetric):
    """Mean F1 of the words of response and right answer, as SQuAD scores (Rajpurkar et al., arXiv:1606.05250); torchmetrics computes it.

    Case, punctuation and articles do not count. Of several right answers in ``example.meta["answer"]`` the nearest counts.

    ``compute`` gives ``score``, the mean F1 in [0, 1], and ``exact_match``, the share of responses with all words right and no other; both are NaN before the
    first example.

    >>> from lit_talr.data.example import Example
    >>> metric = F1()
    >>> metric.update(["the red cup"], [Example.from_prompt("Which?", "a red and blue cup", meta={"answer": "a red and blue cup"})])
    >>> round(float(metric.compute()["score"]), 4)
    0.6667
    """

    sums: Tensor  # [3] of F1, of exact matches, and the number of examples

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3), dist_reduce_fx="sum")

    def update(self, responses: Sequence[str], examples: Sequence[Example]) -> None:
        for response, example in zip(responses, examples, strict=True):
            f1, exact = shared_words(response, right_answers(example))
            self.sums = self.sums + torch.tensor([f1, exact, 1.0], device=self.sums.device)

    def compute(self) -> dict[str, Tensor]:
        f1, exact, number = self.sums
        return {"score": f1 / number, "exact_match": exact / number}

    def judge(self, response: str, example: Example) -> dict[str, object]:
        f1, exact = shared_words(response, right_answers(example))
        return {"extracted": response.strip(), "f1": f1, "correct": exact == 1}


def shared_words(response: str, answers: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match of one response, in [0, 1]."""
    scores = squad(
        [{"prediction_text": response, "id": ""}],
        [{"answers": {"answer_start": [0] * len(answers), "text": list(answers)}, "id": ""}],  # type: ignore[list-item]  # torchmetrics' example is the same
    )
    return float(scores["f1"]) / 100, float(scores["exact_match"]) / 100
