"""Whether a remark after a number says the same number, another one, or none."""

import re
from fractions import Fraction

from lit_talr.metrics.number import calculate

OPERATORS = {
    **{"plus": "+", "minus": "-", "\u2212": "-", "\u2013": "-"},
    **{"times": "*", "multiplied by": "*", "\\times": "*", "\\cdot": "*", "\u00d7": "*", "\u00b7": "*", "x": "*"},
    **{"divided by": "/", "\\div": "/", "\u00f7": "/"},
}
# All expressions take time proportional to the text: a run is possessive (`*+`), and all else has a bounded length.
OPERATOR = re.compile(r"\b(?:plus|minus|times|multiplied by|divided by)\b|\\(?:times|cdot|div)\b|[\u2212\u2013\u00d7\u00b7\u00f7]|(?<=[\d\s)])x(?=\s?[\d(])")
CALCULATES = re.compile(r"[+*^]|(?<=[\d)]) ?[-/] ?(?=[$(\d])|\\[A-Za-z]")
CONCLUDES = re.compile(
    r"[=\u2248]|\\approx|(?<=\d)\s++(?:is|are)\b"
    r"|\b(?:so|thus|hence|therefore|equals?|gives?|giving|makes?|making|leaves?|leaving|totals?|totalling|sums?|answer|result)\b",
    re.IGNORECASE,
)
LEADS = frozenset(
    "which that is are was i.e or about approximately approx roughly around nearly almost maybe perhaps possibly probably could might may be it to rounded "
    "rounds exactly precisely".split()
)
"""Words before a number that leave it a statement of its own: ``which is about 20``, but not ``after 20``."""
WORD = re.compile(r"(?<!\\)(?:(?<=\d)[-/])?(?:[^\W\d_]{2,}+|i\.e|[aI]\b)(?:['/-][^\W\d_]++)*+\.?")
FRACTION = re.compile(r"\\[dt]?frac\s?{([^{}]{1,50})}\s?{([^{}]{1,50})}")
EMPHASIS = re.compile(r"\*\*(?![\d(])|(?<![\d)])\*\*|\\(?=\$)|[$\u20ac\u00a3\u00a5\"'`\[\]]|,(?!\d)|,(?=\d{3}(?!\d))")


def agrees(remark: str, value: Fraction, percent: bool = False) -> bool:
    """Whether a remark that holds numbers leaves a number as it is.

    What it concludes (after its last ``=`` or "so", "makes", ...), calculates or says as a number of its own must be the same, as written with its decimals.
    Other numbers in words are no statement about it.

    Args:
        remark: The text, with its first words: ``because 9 + 9 = 18``.
        value: The number.
        percent: Whether the number is written with a percent sign, so that a hundredth of it is the same.

    >>> [agrees(remark, Fraction(18)) for remark in ("because 9 + 9 = 18", "9 eggs * $2", "9 hens lay 2 eggs each", "not 20")]
    [True, True, True, True]
    >>> [agrees(remark, Fraction(18)) for remark in ("since 9 + 8 = 17", "9 eggs * $3", "or 20", "about 20")]
    [False, False, False, False]
    """
    remark = OPERATOR.sub(lambda match: OPERATORS[match[0].lower()], remark)
    conclusion = CONCLUDES.split(remark)[-1]
    if conclusion == remark and not CALCULATES.search(remark) and narrates(remark):
        return True
    said = calculate(EMPHASIS.sub("", WORD.sub(" ", FRACTION.sub(r"((\1)/(\2))", conclusion))).replace("%", "/100").strip(" .,;:!?"))
    if said is None:
        return False
    same = (float(value), float(value) / 100) if percent else (float(value),)
    return any(abs(said - one) <= rounding(value) + 1e-9 * abs(one) for one in same)


def rounding(value: Fraction) -> float:
    """Returns half a unit of the last decimal that a number needs; none of a whole one, and of the second decimal where they do not end."""
    if value.denominator == 1:
        return 0.0
    return 0.5 / 10 ** next((places for places in range(1, 7) if 10**places % value.denominator == 0), 2)


def narrates(remark: str) -> bool:
    """Whether the numbers of a remark are details in words, as in "9 hens lay 2 eggs each" or "after 2 days", and not a statement as "or 20"."""
    remark = remark.lower()
    before, *numbers = re.split(r"\d[\d.,]*+", remark)
    words, opening = (re.findall(r"i\.e|[^\W\d_]{2,}+", text) for text in (remark, before))
    return bool(set(words) - LEADS - {"and"}) and words[0] != "or" and (len(numbers) > 1 or bool(set(opening) - LEADS))
