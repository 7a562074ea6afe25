"""The share of right answers, overall and per category."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_talr.data.example import Example
from lit_talr.metrics.base import DomainMetric


class CategoryAccuracy(DomainMetric):
    """The share of answers that ``judge`` calls right; a domain writes ``judge`` and ``category``.

    ``compute`` gives ``score`` and ``accuracy`` (the same number; NaN before the first example), ``accuracy_se`` (its binomial standard error),
    ``num_examples``, and ``accuracy/<category>`` for every category seen.

    Args:
        categories: The names that ``category`` gives, at least one, none twice.

    Raises:
        ValueError: For no categories or one twice.
    """

    correct: Tensor
    total: Tensor

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__()
        if not categories or len(set(categories)) < len(categories):
            raise ValueError(f"`categories` must hold at least one name and none twice, got {list(categories)}.")
        self.categories = tuple(categories)
        self.add_state("correct", torch.zeros(len(categories), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(categories), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def category(self, example: Example) -> str:
        """One of the categories; ``ValueError``, by the row's name, for an example without."""

    def update(self, answers: Sequence[str], examples: Sequence[Example]) -> None:
        correct, total = [0] * len(self.categories), [0] * len(self.categories)
        for answer, example in zip(answers, examples, strict=True):
            category = self.categories.index(self.category(example))
            total[category] += 1
            correct[category] += bool(self.judge(answer, example)["correct"])
        self.correct += torch.tensor(correct, device=self.correct.device)
        self.total += torch.tensor(total, device=self.total.device)

    def compute(self) -> dict[str, Tensor]:
        num_examples = self.total.sum()
        accuracy = self.correct.sum() / num_examples
        scores = {
            "score": accuracy,
            "accuracy": accuracy,
            "accuracy_se": (accuracy * (1 - accuracy) / num_examples).sqrt(),
            "num_examples": num_examples.float(),
        }
        shares = self.correct / self.total
        return scores | {f"accuracy/{name}": share for name, share, total in zip(self.categories, shares, self.total, strict=True) if total > 0}
