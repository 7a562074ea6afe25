"""Scores numbers by limits that each example brings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_talr.example import Example
from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.medcalc import as_number, last_field, last_number


class WithinLimits(DomainMetric):
    """The share of answers whose number lies within the example's limits, overall and per category.

    The number is the last one in the last JSON field ``"answer"``; an answer without it is wrong. ``example.meta`` holds ``lower`` and ``upper`` (texts,
    both ends count), ``category`` and ``calculator``. ``compute`` gives ``score`` and ``accuracy`` (the same number; NaN before the first example),
    ``accuracy_se`` (its binomial standard error), ``num_examples``, and ``accuracy/<category>`` for every category seen.

    Args:
        categories: The names that ``meta["category"]`` can have, at least one, none twice.

    Raises:
        ValueError: For no categories or one twice; in use, for an unknown category or a limit that cannot be read, by the row's name where ``meta`` has
            it (``where``).

    >>> from lit_talr.example import Example
    >>> meta = {"calculator": "Brand ratio", "category": "formula", "lower": "2.375", "upper": "2.625"}
    >>> example = Example.from_prompt("What is the Brand ratio?", '{"answer": "2.5"}', meta=meta)
    >>> metric = WithinLimits(("score", "formula"))
    >>> metric.judge('{"answer": "about 2.4"}', example)
    {'extracted': '2.4', 'correct': True}
    >>> metric.update(['{"answer": "about 2.4"}', "I cannot tell."], [example, example])
    >>> metric.compute()["score"]
    tensor(0.5000)
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

    def update(self, answers: Sequence[str], examples: Sequence[Example]) -> None:
        correct, total = [0] * len(self.categories), [0] * len(self.categories)
        for answer, example in zip(answers, examples, strict=True):
            category = self.index(example)
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

    def judge(self, answer: str, example: Example) -> dict[str, object]:
        field = last_field(answer)
        extracted = None if field is None else last_number(field)
        value = as_number(extracted)
        lower, upper = (self.limit(name, example) for name in ("lower", "upper"))
        return {"extracted": extracted, "correct": value is not None and lower <= value <= upper}

    def limit(self, name: str, example: Example) -> float:
        value = as_number(example.meta[name])
        if value is None:
            raise ValueError(f"{example.meta.get('where', 'an example')}: `{name}` must be a finite number, as text, got {example.meta[name]!r}.")
        return value

    def index(self, example: Example) -> int:
        category = example.meta["category"]
        if category not in self.categories:
            raise ValueError(f"{example.meta.get('where', 'an example')}: `category` must be one of {', '.join(self.categories)}, got {category!r}.")
        return self.categories.index(category)
