"""Scores numbers by limits that each example brings."""

from lit_talr.data.example import Example
from lit_talr.metrics.category_accuracy import CategoryAccuracy
from lit_talr.metrics.medcalc import as_number, last_field
from lit_talr.metrics.numeric_match import plain, sole_number


class WithinLimits(CategoryAccuracy):
    """The share of answers whose number lies within the example's limits, overall and per category.

    The last JSON field ``"answer"`` must say one number, with words and units, as a box does for ``NumericMatch``; any other answer is wrong: several numbers,
    an expression other than a fraction, and a percentage. ``example.meta`` holds ``lower`` and ``upper`` (texts, both ends count), ``category`` and
    ``calculator``. ``compute`` gives ``score`` and ``accuracy`` (the same number; NaN before the first example), ``accuracy_se`` (its binomial standard error),
    ``num_examples``, and ``accuracy/<category>`` for every category seen.

    Args:
        categories: The names that ``meta["category"]`` can have, at least one, none twice.

    Raises:
        ValueError: For no categories or one twice; in use, for an unknown category or a limit that cannot be read, by the row's name where ``meta`` has
            it (``where``).

    >>> from lit_talr.data.example import Example
    >>> meta = {"calculator": "Brand ratio", "category": "formula", "lower": "2.375", "upper": "2.625"}
    >>> example = Example.from_prompt("What is the Brand ratio?", '{"answer": "2.5"}', meta=meta)
    >>> metric = WithinLimits(("score", "formula"))
    >>> metric.judge('{"answer": "about 2.4"}', example)
    {'extracted': '2.4', 'correct': True}
    >>> metric.update(['{"answer": "about 2.4"}', "I cannot tell."], [example, example])
    >>> metric.compute()["score"]
    tensor(0.5000)
    """

    def judge(self, answer: str, example: Example) -> dict[str, object]:
        field = last_field(answer) or ""
        value = None if "%" in field else sole_number(plain(field))
        lower, upper = (self.limit(name, example) for name in ("lower", "upper"))
        return {"extracted": None if value is None else f"{float(value):.15g}", "correct": value is not None and lower <= float(value) <= upper}

    def limit(self, name: str, example: Example) -> float:
        value = as_number(example.meta[name])
        if value is None:
            raise ValueError(f"{example.meta.get('where', 'an example')}: `{name}` must be a finite number, as text, got {example.meta[name]!r}.")
        return value

    def category(self, example: Example) -> str:
        category = example.meta["category"]
        if category not in self.categories:
            raise ValueError(f"{example.meta.get('where', 'an example')}: `category` must be one of {', '.join(self.categories)}, got {category!r}.")
        return category
