"""Scores responses that name one of a few classes."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.plot import plot_confusion_matrix

from lit_talr.data.example import Example, place
from lit_talr.metrics.base import DomainMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Takes time proportional to the text: every repetition is possessive, and one that finds no end ends where the next key can begin.
FIELD = re.compile(r"""answer["']?\s*+:\s*+(\[[^]\n]*+|"[^"\n]*+"|"[^"\n]++\Z|'[^'\n]*+'|[^"'\n,}]++)""", re.IGNORECASE)
FILLERS = {"answer", "is", "match", "the"}


def class_of(response: str, classes: Mapping[str, str]) -> str | None:
    """Returns the class that a response names, by letter or name, in any case. Reads the last JSON field ``"answer"``, or the whole text without one.

    All words there must name the same class ("E", "exact" and "E (Exact)" do, "not E" does not), except for "the answer is" and "match"; otherwise None.
    A field need not be closed nor its key quoted, and may be a list. Never raises on any text.

    >>> class_of('{"step_by_step_thinking": "It is no substitute.", "answer": "E"}', {"E": "Exact", "S": "Substitute"})
    'E'
    """
    fields = FIELD.findall(response)
    words = re.findall(r"\w+", (fields[-1] if fields else response).lower())
    letters = {word.lower(): letter for letter, name in classes.items() for word in (letter, name)}
    named = {letters.get(word) for word in words if word in letters or word not in FILLERS}
    return named.pop() if len(named) == 1 else None


class ClassScores(DomainMetric):
    """Classification scores of responses that name the class of each example.

    ``example.meta["answer"]`` holds the letter of the true class. A response that names no class, or several, is a wrong one.

    ``compute`` gives ``score`` and ``macro_f1`` (the same number: our choice, since one class often prevails), ``accuracy``, ``balanced_accuracy`` (the mean
    recall), ``no_class`` (the share of responses that name none), ``num_examples``, and for every class ``recall/<class>``, ``precision/<class>`` and
    ``f1/<class>``, 0 where there is nothing to count. Means leave out a class without examples, except that F1 counts it where a response names it.

    Args:
        classes: The name of each class by its letter, at least two; all names and letters differ, whatever their case.

    Raises:
        ValueError: For fewer classes, or a name twice; in use, for a true class that is none of them, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.data.example import Example
    >>> example = Example.from_prompt("Is a red cup a blue cup?", '{"answer": "S"}', meta={"answer": "S"})
    >>> metric = ClassScores({"E": "Exact", "S": "Substitute"})
    >>> metric.update(['{"answer": "S"}', "I cannot tell."], [example, example])
    >>> metric.compute()["accuracy"]
    tensor(0.5000)
    """

    confusion: Tensor  # [true class, named class]; the last index is no class

    def __init__(self, classes: Mapping[str, str]) -> None:
        super().__init__()
        if len(classes) < 2 or len({word.lower() for word in (*classes, *classes.values())}) < 2 * len(classes):
            raise ValueError(f"`classes` must hold at least two letters and their names, none twice, got {dict(classes)}.")
        self.classes = dict(classes)
        width = len(classes) + 1
        self.add_state("confusion", torch.zeros(width, width, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, responses: Sequence[str], examples: Sequence[Example]) -> None:
        classes = [*self.classes, None]
        pairs = [(classes.index(class_of(r, self.classes)), classes.index(self.truth(e))) for r, e in zip(responses, examples, strict=True)]
        named, true = torch.tensor(pairs, dtype=torch.long, device=self.device).reshape(-1, 2).unbind(1)
        self.confusion += multiclass_confusion_matrix(named, true, num_classes=len(classes))

    def compute(self) -> dict[str, Tensor]:
        right, true, named = self.confusion.diagonal()[:-1], self.confusion.sum(1)[:-1], self.confusion.sum(0)[:-1]
        num_examples = true.sum()
        per_class = {"recall": right / true, "precision": right / named, "f1": 2 * right / (true + named)}
        macro_f1 = per_class["f1"].nanmean()
        return {
            "score": macro_f1,
            "macro_f1": macro_f1,
            "accuracy": right.sum() / num_examples,
            "balanced_accuracy": per_class["recall"].nanmean(),
            "no_class": self.confusion[:, -1].sum() / num_examples,
            "num_examples": num_examples.float(),
            **{f"{name}/{letter}": value for name, values in per_class.items() for letter, value in zip(self.classes, values.nan_to_num(), strict=True)},
        }

    def judge(self, response: str, example: Example) -> dict[str, object]:
        extracted = class_of(response, self.classes)
        return {"extracted": extracted, "correct": extracted == self.truth(example)}

    def truth(self, example: Example) -> str:
        answer = example.meta["answer"]
        if answer not in self.classes:
            raise ValueError(f"{place(example)}`answer` must be one of {', '.join(self.classes)}, got {answer!r}.")
        return answer

    def figure(self) -> "Figure":
        """Draws the confusion matrix."""
        from matplotlib.figure import Figure

        with self.sync_context():  # collective
            counts = self.confusion.clone()
        figure = Figure(figsize=(5, 5), layout="constrained")
        plot_confusion_matrix(counts, figure.add_subplot(), labels=[*self.classes, "none"], cmap="Blues")
        return figure
