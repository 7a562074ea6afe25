"""Bases of all metrics: one for any score, one for shares of correct responses."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_talr.data.example import Example, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DomainMetric(Metric):
    """Scores responses against the examples that prompted them; exact over ranks, as every torchmetrics metric.

    ``compute`` returns a dictionary of scalars whose key ``score`` is the one number by which runs of the domain are compared.
    """

    full_state_update = False

    @abstractmethod
    def update(self, responses: Sequence[str], examples: Sequence[Example]) -> None:
        """Adds ``responses[i]``, the text generated for ``examples[i]``; an empty response is a wrong one, never an error."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Computes the scores so far, ``score`` among them."""

    @abstractmethod
    def judge(self, response: str, example: Example) -> dict[str, object]:
        """Tells how one response was read and whether it is right, for the responses file: at least ``{"correct": bool}``."""

    @property
    def name(self) -> str:
        """Name of the rule; scores by two names are not compared."""
        return type(self).__name__

    def figure(self) -> "Figure | None":
        """Draws the scores so far, where a metric has a picture; collective, as ``compute``."""
        return None


def right_answers(example: Example) -> list[str]:
    """The right answers of an example, of which any counts: ``meta["answer"]`` is one, or a list.

    Raises:
        ValueError: For an empty list, by the row's name where ``meta`` has it (``where``).
    """
    answer = example.meta["answer"]
    answers = [str(one) for one in answer] if isinstance(answer, list | tuple) else [str(answer)]
    if not answers:
        raise ValueError(f"{place(example)}`answer` must hold at least one right answer, got an empty list; fill it in or remove the row.")
    return answers


class CorrectShare(DomainMetric):
    """The share of responses that ``judge`` calls correct, as ``score``; NaN before the first example. A subclass writes ``judge``.

    Args:
        categories: Names by which examples are counted, at least one, none twice.
        marks: Keys of what ``judge`` returns, ``correct`` first; ``compute`` gives the share of each other one under its name.

    Raises:
        ValueError: For no categories or one twice.
    """

    total: Tensor  # [category]

    def __init__(self, categories: Sequence[str] = ("all",), marks: Sequence[str] = ("correct",)) -> None:
        super().__init__()
        if not categories or len(set(categories)) < len(categories):
            raise ValueError(f"`categories` must hold at least one name and none twice, got {list(categories)}.")
        self.categories = tuple(categories)
        self.marks = tuple(marks)
        for name in (*marks, "total"):
            self.add_state(name, torch.zeros(len(categories), dtype=torch.long), dist_reduce_fx="sum")

    def category(self, example: Example) -> str:
        """Returns one of the categories."""
        return self.categories[0]

    def update(self, responses: Sequence[str], examples: Sequence[Example]) -> None:
        counts = {name: [0] * len(self.categories) for name in (*self.marks, "total")}
        for response, example in zip(responses, examples, strict=True):
            index = self.categories.index(self.category(example))
            for name, value in {**self.judge(response, example), "total": True}.items():
                if name in counts:
                    counts[name][index] += bool(value)
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + torch.tensor(count, device=self.total.device))

    def compute(self) -> dict[str, Tensor]:
        shares = {name: getattr(self, name).sum() / self.total.sum() for name in self.marks}
        return {"score": shares.pop("correct"), **shares}


class CategoryAccuracy(CorrectShare):
    """The share of responses that ``judge`` calls correct, overall and per category. A subclass writes ``judge``.

    ``example.meta["category"]`` names the category. ``compute`` gives ``score`` and ``accuracy`` (the same number; NaN before the first example),
    ``accuracy_se`` (its binomial standard error), ``num_examples``, and ``accuracy/<category>`` for every category seen.

    Args:
        categories: The names of the categories, at least one, none twice.

    Raises:
        ValueError: For no categories or one twice; in use, for an example of another category, by the row's name where ``meta`` has it (``where``).
    """

    correct: Tensor  # [category]
    other_names: Mapping[str, str] = {}
    """Categories by the other names that they have in the data."""

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__(categories)

    def category(self, example: Example) -> str:
        category = self.other_names.get(str(example.meta["category"]), example.meta["category"])
        if category not in self.categories:
            raise ValueError(f"{place(example)}`category` must be one of {', '.join((*self.categories, *self.other_names))}, got {category!r}.")
        return category

    def compute(self) -> dict[str, Tensor]:
        accuracy, num_examples = super().compute()["score"], self.total.sum()
        scores = {
            "score": accuracy,
            "accuracy": accuracy,
            "accuracy_se": (accuracy * (1 - accuracy) / num_examples).sqrt(),
            "num_examples": num_examples.float(),
        }
        shares = self.correct / self.total
        return scores | {f"accuracy/{name}": share for name, share, total in zip(self.categories, shares, self.total, strict=True) if total > 0}
