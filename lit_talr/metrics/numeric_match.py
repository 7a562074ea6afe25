r"""Scores answers by their final number, read exactly.

Which number counts: that of the last line ``#### number``, alone after the mark (the form of GSM8K, Cobbe et al., arXiv:2110.14168); else the first one in
the last ``\boxed{...}``; else the first one after the last "answer is", in its line; else the last number of the text. The first of these places that holds
a number decides, even where that number cannot be read.

A number is written in the digits 0 to 9: ``-1,234.50``, ``$5``, ``.5``, ``3/4``, ``\frac{3}{4}``; percent and degree signs are dropped, so ``50%`` is 50. None
is what belongs to a word or an expression (``H2O``, ``10^400``, ``1e3``, ``2\sqrt{3}``, ``x_1``, ``1/2/3``), is grouped otherwise than by thousands (``3,4``,
``1.2.3``), divides by zero, or has a digit of another script or more than ``MAX_LENGTH`` characters. A mixed number, ``2 1/2``, is two.

lm-evaluation-harness reads GSM8K likewise, but its strict filter takes the first ``#### number``, whatever follows in the line, and its flexible one always
the last number of the text, where ``5-3`` ends with -3 (here with 3) and ``1/2`` with 2.
"""

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from lit_talr.example import Example
from lit_talr.metrics.base import DomainMetric

MAX_LENGTH = 50

# Both expressions take time proportional to the text: a run of digits is possessive (`*+`), and all else has a bounded length.
RUN = r"(?:(?<![\w.])\.)?\d[\d.,]*+(?:[eE][-+]?\d++)?"
NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![\w)\]}}])[-\u2212])?(?:\\?\$[-\u2212]?)?)"  # a minus after a word or a bracket subtracts
    rf"(?:\\[dt]?frac\s?{{(?P<top>-?{RUN})}}\s?{{(?P<bottom>{RUN})}}|(?P<number>{RUN})(?:\s?/\s?(?P<divisor>{RUN}))?)"
    r"(?:\s?\\?%|\^\\circ|\^{\\circ})?"
)
GOES_ON = re.compile(r"\s?\^|_[\d{]|\s?/\s?\d|\s?\\(?!text|mathrm)[A-Za-z]")
ANSWER_IS = re.compile(r"answer is", re.IGNORECASE)


def last_number(text: str) -> Fraction | None:
    r"""The number that a text answers, None where there is none: the module's text says which one counts. Takes time proportional to the text, never raises.

    >>> last_number("3 eggs at $1.25 are $3.75 in all.")
    Fraction(15, 4)
    >>> last_number("It is 10^400.") is None
    True
    """
    return find_number(text)[0]


def find_number(text: str) -> tuple[Fraction | None, str]:
    """The number that counts, and where it stands: ``####``, ``boxed``, ``answer is`` or ``last``."""
    text = plain(text)
    for line in reversed(text.splitlines()):
        _, mark, rest = line.rpartition("####")
        if mark and (value := number(rest)) is not None:
            return value, "####"
    for place, said in (("boxed", last_box(text)), ("answer is", after_answer_is(text))):
        if found := NUMBER.search(said):
            return value_of(found), place
    last = deque(NUMBER.finditer(text), maxlen=1)
    return value_of(last[0]) if last else None, "last"


def number(text: str) -> Fraction | None:
    """The number that a text is, emphasis, dollar signs and a full stop around it aside; None for any other text."""
    text = plain(text).lstrip(" \t*$").rstrip(" \t\r\n*$.")
    found = NUMBER.match(text)
    return value_of(found) if found and found.end() == len(text) else None


def plain(text: str) -> str:
    r"""Without what LaTeX puts around a thousands comma: ``1,\!000`` and ``1{,}000`` become ``1,000``."""
    return text.replace("\\!", "").replace("{,}", ",")


def value_of(found: re.Match[str]) -> Fraction | None:
    before = found.string[found.start() - 1 : found.start()]
    in_a_word = before.isascii() and before.isalnum() and "$" not in found["sign"]
    if in_a_word or before in ("^", "{", "/", "_") or GOES_ON.match(found.string, found.end()):
        return None
    top, bottom = decimal(found["number"] or found["top"].removeprefix("-")), decimal(found["divisor"] or found["bottom"] or "1")
    if top is None or not bottom:
        return None
    signs = (found["sign"] + (found["top"] or "")[:1]).replace("\u2212", "-").count("-")
    return (-1) ** signs * top / bottom


def decimal(run: str) -> Fraction | None:
    """The value of digits with decimals and thousands commas."""
    run = run.rstrip(".,")
    whole, _, decimals = run.partition(".")
    first, *thousands = whole.split(",")
    if len(run) > MAX_LENGTH or any(len(group) != 3 for group in thousands) or (thousands and not 1 <= len(first) <= 3):
        return None
    digits = whole.replace(",", "") + decimals
    return Fraction(int(digits), 10 ** len(decimals)) if digits.isascii() and digits.isdigit() else None


def last_box(text: str) -> str:
    r"""What stands in the last ``\boxed{...}``; empty without one, or where it is not closed."""
    _, box, rest = text.rpartition("\\boxed{")
    depth = 1
    for end, character in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return rest[:end]
    return ""


def after_answer_is(text: str) -> str:
    """What follows the last "answer is", in its line; empty without one."""
    found = deque(ANSWER_IS.finditer(text), maxlen=1)
    return text[found[0].end() :].partition("\n")[0].lstrip(" \t:") if found else ""


class NumericMatch(DomainMetric):
    """Share of answers whose final number equals ``example.meta["answer"]``, exactly; the module's text says which number that is.

    ``compute`` gives ``score``, and ``strict``, which counts only answers with their number in a line ``#### number``; both are NaN before the first
    example.

    Raises:
        ValueError: In use, for a truth that is no number, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.example import Example
    >>> example = Example.from_prompt("3 + 4?", "#### 7", meta={"answer": "7"})
    >>> metric = NumericMatch()
    >>> metric.judge("3 and 4 are 7.0", example)
    {'extracted': '7', 'found': 'last', 'correct': True, 'strict': False}
    >>> metric.update(["3 + 4 = 7\\n#### 7", "3 and 4 are 7.0", "#### 8"], [example] * 3)
    >>> metric.compute()
    {'score': tensor(0.6667), 'strict': tensor(0.3333)}
    """

    correct: Tensor
    strict: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "strict", "total"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Sequence[str], examples: Sequence[Example]) -> None:
        rows = [self.judge(answer, example) for answer, example in zip(answers, examples, strict=True)]
        self.correct += sum(bool(row["correct"]) for row in rows)
        self.strict += sum(bool(row["strict"]) for row in rows)
        self.total += len(rows)

    def compute(self) -> dict[str, Tensor]:
        return {"score": self.correct / self.total, "strict": self.strict / self.total}

    def judge(self, answer: str, example: Example) -> dict[str, object]:
        truth = number(str(example.meta["answer"]))
        if truth is None:
            where = example.meta.get("where", "an example")
            raise ValueError(f"{where}: `answer` must be a number, got {str(example.meta['answer'])[:80]!r}; correct the row.")
        said, place = find_number(answer)
        correct = said == truth
        return {"extracted": None if said is None else str(said), "found": place, "correct": correct, "strict": correct and place == "####"}
