"""Scores numbers by limits that each example brings."""

from lit_talr.data.example import Example, place
from lit_talr.metrics.base import CategoryAccuracy
from lit_talr.metrics.medcalc import as_number, last_field
from lit_talr.metrics.numeric_match import plain, sole_number


class WithinLimits(CategoryAccuracy):
    """The share of responses whose number lies within the example's limits, overall and per category (see ``CategoryAccuracy``).

    The last JSON field ``"answer"`` must give one number, with words and units, as a box does for ``NumericMatch``. Any other response is wrong: several
    numbers, an expression other than a fraction, and a percentage. ``example.meta`` holds ``lower`` and ``upper`` (texts, both ends count) and ``category``.

    Args:
        categories: The names that ``meta["category"]`` can have, at least one, none twice.

    Raises:
        ValueError: For no categories or one twice; in use, for an unknown category or a limit that cannot be read, by the row's name.

    >>> from lit_talr.data.example import Example
    >>> meta = {"category": "formula", "lower": "2.375", "upper": "2.625"}
    >>> example = Example.from_prompt("What is the Brand ratio?", '{"answer": "2.5"}', meta=meta)
    >>> metric = WithinLimits(("score", "formula"))
    >>> metric.judge('{"answer": "about 2.4"}', example)
    {'extracted': '2.4', 'correct': True}
    >>> metric.update(['{"answer": "about 2.4"}', "I cannot tell."], [example, example])
    >>> metric.compute()["score"]
    tensor(0.5000)
    """

    def judge(self, response: str, example: Example) -> dict[str, object]:
        field = last_field(response) or ""
        value = None if "%" in field else sole_number(plain(field))
        lower, upper = (self.limit(name, example) for name in ("lower", "upper"))
        return {"extracted": None if value is None else f"{float(value):.15g}", "correct": value is not None and lower <= float(value) <= upper}

    def limit(self, name: str, example: Example) -> float:
        value = as_number(example.meta[name])
        if value is None:
            raise ValueError(f"{place(example)}`{name}` must be a finite number, as text, got {example.meta[name]!r}.")
        return value
