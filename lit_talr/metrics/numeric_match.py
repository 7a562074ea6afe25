r"""Scores responses by their final number, read exactly.

The number is looked for in the last line ``#### number``, alone after the mark (the form of GSM8K, Cobbe et al., arXiv:2110.14168); else in the last
``\boxed{...}``; else in the sentence after the last "answer is"; else at the beginning of the last ``####`` line, before words or a remark
(``#### 18 dollars for 2``); else it is the last number of the text. The first of these places that holds a number decides, even where that number cannot be
read.

A number is written in the digits 0 to 9: ``-1,234.50``, ``+7``, ``$5``, ``.5``, ``3/4``, ``\frac{3}{4}``, ``\frac34``; percent and degree signs are dropped,
so ``50%`` is 50. Not a number is what belongs to a word or an expression (``H2O``, ``10^400``, ``1e3``, ``5!``, ``2\sqrt{3}``, ``x_1``, ``1/2/3``), is grouped
otherwise than by thousands (``3,4``, ``1.2.3``, ``70 000``), divides by zero, or has a digit of another script or more than ``MAX_LENGTH`` characters. A mixed
number, ``2 1/2``, is two numbers. An exclamation mark ends the sentence in "The total is 18!" and ``#### 18!``: it follows a number after a word or the mark,
and nothing else of the sentence follows. Anywhere else it is a factorial: alone, in mathematics, in a box, in an expression.

A box and the sentence after "answer is" must give one number alone, with words and units: ``3+\sqrt{2}``, ``3x``, ``(3, 5)``, ``x \le 3``, ``3 or 7``, "half
of 3" and "at least 3" are no numbers. Of an equation the right side counts (``20 - 8 = 12``, ``x = 12``), unless the left one lists several things or
multiplies an unknown (``2x = 10``), or the right one is the calculation (``12 = 20 - 8``).

A remark on the number, in parentheses or from a word such as "because", "which" or "so", is passed over where it agrees: "18 (9 + 9)", "18, because 9 + 9 =
18", "18, since 9 hens lay 2 eggs each", "18, not 20". With one that gives another number, there is none: "5, since 3 + 4 = 7", "5 (or 7)". ``remark.agrees``
decides. Wherever the last number of the text counts, it is the last one outside such parentheses.

lm-evaluation-harness reads GSM8K similarly, but its strict filter takes the first ``#### number``, whatever follows in the line, and its flexible one always
the last number of the text, where ``5-3`` ends with -3 (here with 3) and ``1/2`` with 2.
"""

import re
from collections import deque
from fractions import Fraction

from lit_talr.data.example import Example, place
from lit_talr.metrics.base import CorrectShare
from lit_talr.metrics.remark import agrees

MAX_LENGTH = 50

# All expressions take time proportional to the text: a run is possessive (`*+`), and all else has a bounded length or begins at a mark.
MINUS = "-\u2212\u2013"
CURRENCY = "$\u20ac\u00a3\u00a5"
SMALL = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u215f"  # raised and lowered digits, and fractions of one character
COMMAND = r"\\(?!(?:text|mathrm|mbox|q?quad|approx|left|right|displaystyle)(?![A-Za-z]))[A-Za-z]"  # LaTeX commands other than words and layout
RUN = r"(?:(?<![\w.])\.)?\d[\d.,]*+(?:[eE][-+]?\d++)?"
NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![\w)\]}}])[{MINUS}+])?(?:\\?[{CURRENCY}][{MINUS}+]?)?)"  # a sign after a word or a bracket adds or subtracts
    rf"(?:\\[dt]?frac\s?{{(?P<top>-?{RUN})}}\s?{{(?P<bottom>{RUN})}}|(?P<number>{RUN})(?:\s?/\s?(?P<divisor>{RUN}))?)"
    r"(?:\s?\\?%|\^\\circ|\^{\\circ})?"
)
CONTINUES = re.compile(rf"\s?[\^\u00d7]|[!{SMALL}]|_[\d{{]|\s?/\s?\d|\s?{COMMAND}")
GROUP = re.compile(r"(?<=\d[ \u00a0\u202f])\d{3}(?!\d)")  # 000 in 70 000
NEAR = 50
"""Characters between a number and a remark on it, at most."""
SAME_SENTENCE = re.compile(rf"(?:[^.?!]|[.?!](?!\s)){{0,{NEAR}}}+")
HEADING = re.compile(r"\.|.[).:]")
REMARK_FOLLOWS = re.compile(r"(?<=,)|[*\s]*+(?:[(,\u2014]|(?:because|since|as)\b)")
DIGIT = re.compile(r"\d")
WORDS_FOLLOW = re.compile(r"\**+\s+(?!(?:and|or|to)\b)(?:a\s|[A-Za-z]{2})")
# Signs that a box or a sentence holds more than one number, which is written as "_" here.
MORE = re.compile(
    rf"[\d{SMALL}+=<>^|\u00b1\u00b7\u00d7\u00f7\u03c0\u221a\u221e\u2260\u2264\u2265]|{COMMAND}|_[A-Za-z]|(?<=[_)])!"
    rf"|(?<=\s)\*++(?=\s)|(?<=\w)\*++(?=[\w(\\])"  # other stars are emphasis
    rf"|(?<![A-Za-z:;])[{MINUS}/]|(?<![:;])[{MINUS}/](?![A-Za-z])"  # not those of a word or a face: km/h, :-)
    r"|(?<![A-Za-z]{2})(?<!\\),(?!\s*+\Z|\s+[\"']?[A-Za-z]{2})"  # not those of a sentence: 5, since
    # an expression or a limit in words
    r"|\b(?:half|third|quarter|twice|double|triple|root|times|plus|minus|not|than|least|most|up to|below|above|under|between)\s(?:of |be |the )?\W{0,5}_"
    r"|_\W{0,5}(?:squared|cubed|factorial|plus|minus|divided|multiplied)\b|\b(?:or|and)\s(?:[b-z]|more|less|fewer)\b"
)
UNIT = re.compile(
    r"^[-/]?(?:[ckm]m|[km]g|m[lL]|lbs?|oz|ft|yd|hrs?|mins?|secs?|mph|kph|st|nd|rd|th|[ap]m)(?![A-Za-z])|^[-/][A-Za-z]{3,}+"
    r"|(?:(?<=[A-Za-z]{2})|(?<=[^A-Za-z]m))\s?(?:\^[23]|\^{[23]}|[\u00b2\u00b3])"  # cm^2
)
VARIABLE = re.compile(r"(?<![A-Za-z\\])[b-zB-Z]\s\Z")
ASIDE = re.compile(r"(?<=[ \t])\(((?:[^()\n]|\([^()\n]{0,100}\)){1,300}+)\)")
LINK = re.compile(
    r"\b(?:because|since|as|so|thus|hence|therefore|which|that is|i\.e|namely|where|given|due|meaning|calculated|not|rather|instead)\b|\u2014"
    # after these, any number of the remark must be the same
    r"|(?P<repeats>\b(?:or|if|when|found|obtained)\b|(?<=, )(?:for|from|after|with|by)\b|(?<=[\d*$]):\s|[;\[])"
)
SEVERAL = re.compile(r",\s|\b(?:and|or|because|since)\b|\d[A-Za-z](?![A-Za-z])|[<>!]\Z|\d \([^()]*+\Z")
ANSWER_IS = re.compile(r"answer is\**+[ \t]*+(?::(?:\*++(?=\s))?\s*+(?:(?:\\\[|\$\$)[ \t]*+\n\s*+)?)?", re.IGNORECASE)
SENTENCE_ENDS = re.compile(r"[.?][\"')\]*$`}]*+\s++(?=[A-Z])")
BOX = re.compile(r"\\boxed\s*+{")

# "The total is 18!": after a word that is no operator, and at the end of a sentence.
EXCLAMATION = re.compile(
    r"((?:(?<![\\A-Za-z])(?!(?:plus|minus|times|by|over|and|or)\b)[A-Za-z]{2,}+[:,]?\**[ \t]++|####[ \t]*+)"
    rf"[*_\"'`(]{{0,4}}[{MINUS}+]?\\?[{CURRENCY}]?\d[\d.,/]*+)!++(?=[*_\"'`)]*+(?:\s*+\Z|[ \t]*+\n|\s++[^{MINUS}\sa-z\d+*/^=<>\\$\u00d7\u00f7\u00b7]))"
)
NEGATIVE = re.compile(r"(?:\bnegative|(?<=\bis )minus) (?=[\d$.])")
CALCULATOR = re.compile(r"<<[^<>\n]{1,200}+>>")  # in the rows of GSM8K: 9 + 9 = <<9+9=18>>18
MATH_MODE = re.compile(r"(?<!\\)\\[()\[\]]")
TEXT = re.compile(r"(?<![\^_])\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)\s?{([^{}]*+)}")
FIRST_ARGUMENT = re.compile(r"(\\[dt]?frac|\\sqrt)\s*+([0-9])")
SECOND_ARGUMENT = re.compile(r"(\\[dt]?frac\s?{(?:[^{}]|{[^{}]*+})*+})\s*+([0-9])")


def last_number(text: str) -> Fraction | None:
    r"""Finds the number that a text answers, None where there is none; the module's text tells which one counts.

    Takes time proportional to the text, and never raises.

    >>> last_number("3 eggs at $1.25 are $3.75 in all.")
    Fraction(15, 4)
    >>> last_number("It is 10^400.") is None
    True
    """
    return find_number(text)[0]


def find_number(text: str) -> tuple[Fraction | None, str]:
    """Finds the number that counts, and its source: ``####``, ``boxed``, ``answer is``, ``#### and words`` or ``last``."""
    text = plain(text)
    marked = [line.rpartition("####")[2] for line in text.splitlines() if "####" in line]
    for rest in reversed(marked):
        if (value := parse_number(rest)) is not None:
            return value, "####"
    for source, part in (("boxed", last_box(text)), ("answer is", after_answer_is(text))):
        if NUMBER.search(part):
            return sole_number(part), source
    line = marked[-1].lstrip(" \t*$`") if marked else ""
    match = NUMBER.match(line)
    if match and not HEADING.match(line, match.end() - 1):
        value, sole = value_of(match), sole_number(line)
        if REMARK_FOLLOWS.match(line, match.end()) or (value is not None and value == sole):
            return sole, "#### and words"
        if WORDS_FOLLOW.match(line, match.end()):
            return value, "#### and words"
    last = deque(NUMBER.finditer(without_asides(text)), maxlen=1)
    return value_of(last[0]) if last else None, "last"


def sole_number(text: str) -> Fraction | None:
    """Returns the number of a box or a sentence, None where it holds anything but one number, words and units: the module's text gives examples."""
    text = without_asides(text)
    number = NUMBER.search(text)
    link = LINK.search(text, number.end(), number.end() + NEAR) if number else None
    if link is None or not DIGIT.search(text, link.end()):
        return stated_number(text)
    said, remark = text[: link.start()].rstrip(f" {MINUS}"), text[link.start() :]
    value = stated_number(said)
    if value is None:  # 9 + 9, which is 18
        value, said, remark = number_alone(remark), remark, f"= {said}"
    elif link["repeats"]:
        remark = f"= {remark}"
    return value if value is not None and agrees(remark, value, "%" in said) else None


def stated_number(text: str) -> Fraction | None:
    """Returns the number of a text without remarks: of an equation the right side, or the left one where the right one is its calculation."""
    left, equals, right = text.rpartition("=")
    if not equals or not NUMBER.search(right) or SEVERAL.search(left):
        return number_alone(text)
    value = number_alone(right)
    if value is None and (value := number_alone(left)) is not None and not agrees(f"= {right}", value):
        return None
    return value


def number_alone(text: str) -> Fraction | None:
    """Returns the number of a text that holds one number, words and units, and None for any other."""
    match = NUMBER.search(text)
    if match is None:
        return None
    before, after = text[: match.start()], text[match.start() + len(match[0].rstrip(",")) :]
    subtracts = match["sign"][:1] in ("+", *MINUS) and VARIABLE.search(before)
    return None if subtracts or MORE.search(f"{before}_{UNIT.sub('', after)}") else value_of(match)


def without_asides(text: str) -> str:
    """Removes what stands in parentheses after a number and agrees with it, as in ``18 (9 + 9)``."""
    kept, end = [], 0
    for aside in ASIDE.finditer(text):
        before = text[end : aside.start()]
        last = deque(NUMBER.finditer(before.rpartition("\n")[2]), maxlen=1)
        value = value_of(last[0]) if last and SAME_SENTENCE.fullmatch(last[0].string, last[0].end()) else None
        agreed = value is not None and DIGIT.search(aside[1]) and agrees(aside[1], value, last[0][0].endswith("%"))
        kept.append(before if agreed else before + aside[0])
        end = aside.end()
    return "".join([*kept, text[end:]])


def parse_quantity(text: str) -> Fraction | None:
    r"""Parses a text that begins with a number and continues in words alone, as ``18\text{ cm}``; None for any other text."""
    text = plain(text).lstrip(" \t$")
    return sole_number(text) if NUMBER.match(text) and "=" not in text else None


def parse_number(text: str) -> Fraction | None:
    """Parses a text that is a number, apart from emphasis, currency signs and a full stop around it; None for any other text."""
    text = plain(text).lstrip(f" \t*`{CURRENCY}").rstrip(f" \t\r\n*.`{CURRENCY}")
    match = NUMBER.match(text)
    return value_of(match) if match and match.end() == len(text) else None


def plain(text: str) -> str:
    r"""Unifies LaTeX's notations: ``1,\!000``, ``\frac12``, ``\text{cm}`` and ``\(x\)`` become ``1,000``, ``\frac{1}{2}``, ``cm`` and ``x``."""
    text = NEGATIVE.sub("-", EXCLAMATION.sub(r"\1.", CALCULATOR.sub("", text)))
    text = TEXT.sub(r" \1 ", MATH_MODE.sub(" ", text.replace("\\!", "").replace("{,}", ",").replace("\\$ ", "\\$")))
    return SECOND_ARGUMENT.sub(r"\1{\2}", FIRST_ARGUMENT.sub(r"\1{\2}", text))


def value_of(match: re.Match[str]) -> Fraction | None:
    """Returns the value of a match of ``NUMBER``, None where it is part of something else."""
    before = match.string[match.start() - 1 : match.start()]
    in_a_word = before.isascii() and before.isalnum() and not match["sign"].strip(f"+{MINUS}")
    if in_a_word or before in ("^", "{", "/", "_") or GROUP.match(match.string, match.start()) or CONTINUES.match(match.string, match.end()):
        return None
    top, bottom = parse_decimal(match["number"] or match["top"].removeprefix("-")), parse_decimal(match["divisor"] or match["bottom"] or "1")
    if top is None or not bottom:
        return None
    signs = sum(sign in MINUS for sign in match["sign"] + (match["top"] or "")[:1])
    return (-1) ** signs * top / bottom


def parse_decimal(run: str) -> Fraction | None:
    """Parses digits with decimals and thousands commas."""
    run = run.rstrip(".,")
    whole, _, decimals = run.partition(".")
    first, *thousands = whole.split(",")
    if len(run) > MAX_LENGTH or any(len(group) != 3 for group in thousands) or (thousands and not 1 <= len(first) <= 3):
        return None
    digits = whole.replace(",", "") + decimals
    return Fraction(int(digits), 10 ** len(decimals)) if digits.isascii() and digits.isdigit() else None


def last_box(text: str) -> str:
    r"""Returns the content of the last ``\boxed{...}``, without braces of its own; empty without one, or where it is not closed."""
    box = deque(BOX.finditer(text), maxlen=1)
    rest, depth = text[box[0].end() :] if box else "", 1
    for end, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return re.sub(r"\A\s*+{([^{}]*+)}\s*+\Z", r"\1", rest[:end])
    return ""


def after_answer_is(text: str, mark: str = "") -> str:
    """Returns the sentence after the last "answer is", in its line, or in the next one with text after a colon; empty without one.

    With ``":"`` as ``mark``, the sentence after the last "answer is:".
    """
    last = deque((match for match in ANSWER_IS.finditer(text) if mark in match[0]), maxlen=1)
    return SENTENCE_ENDS.split(text[last[0].end() :].partition("\n")[0], maxsplit=1)[0].strip() if last else ""


class NumericMatch(CorrectShare):
    """The share of responses whose final number equals ``example.meta["answer"]``, exactly; the module's text tells which number that is.

    The right answer may be a whole response that marks its number (``####``, a box, "answer is").

    ``compute`` gives ``score``, and ``strict``, which counts only responses with their number in a line ``#### number``; both are NaN before the first
    example.

    Raises:
        ValueError: In use, for an answer that is no number, by the row's name where ``meta`` has it (``where``).

    >>> from lit_talr.data.example import Example
    >>> example = Example.from_prompt("3 + 4?", "#### 7", meta={"answer": "7"})
    >>> metric = NumericMatch()
    >>> metric.judge("3 and 4 are 7.0", example)
    {'extracted': '7', 'found': 'last', 'correct': True, 'strict': False}
    >>> metric.update(["3 + 4 = 7\\n#### 7", "3 and 4 are 7.0", "#### 8"], [example] * 3)
    >>> metric.compute()
    {'score': tensor(0.6667), 'strict': tensor(0.3333)}
    """

    def __init__(self) -> None:
        super().__init__(marks=("correct", "strict"))

    def judge(self, response: str, example: Example) -> dict[str, object]:
        answer = str(example.meta["answer"])
        expected = parse_number(answer)
        if expected is None and (marked := find_number(answer))[1] != "last":  # a whole response, as of GSM8K
            expected = marked[0]
        if expected is None:
            raise ValueError(f"{place(example)}`answer` must be a number, got {answer[:80]!r}; correct the row.")
        value, source = find_number(response)
        correct = value == expected
        return {"extracted": None if value is None else str(value), "found": source, "correct": correct, "strict": correct and source == "####"}
