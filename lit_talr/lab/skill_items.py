"""General abilities made by code: for each skill a function that draws a question and its one right answer, in the vocabulary of ``Clinic``."""

import operator
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from lit_talr.lab.clinic import SYSTEM, Calculator, Formula, Grade, Score, key_of
from lit_talr.lab.clinic_notes import FINDINGS, MEN, VALUES, WOMEN, draw_patient, listed, quantity, write_note


class Item(NamedTuple):
    """A question with its answer."""

    key: str  # decides the split: items of one key are all in training, in validation or in test
    prompt: str
    answer: str
    system: str | None = None


LETTERS = "abdefghiklmnoprstu"
NAMES = (*WOMEN, *MEN)
COLOURS = ("red", "blue", "green", "white", "black", "amber")
UNITS: Mapping[tuple[str, str], int] = {
    **{("dal", "rin"): 4, ("vek", "tosh"): 6, ("mor", "pell"): 3, ("luz", "karn"): 5},
    **{("gim", "hob"): 7, ("sut", "wex"): 9, ("fen", "jad"): 8, ("quor", "bim"): 2},
}
"""Number of the second unit that makes one of the first."""
LANDS = (
    *("Orvia", "Telmar", "Ganth", "Ilyria", "Moroth", "Sarkel", "Venna", "Drumal", "Caspor", "Elonde", "Fareth", "Hylmar"),
    *("Jorvan", "Kestia", "Lunor", "Nambria", "Ostrel", "Parthen", "Quenya", "Rostil", "Sylvar", "Tovan", "Ulmeria", "Wexmor"),
)
CAPITALS = (
    *("Arlen", "Bister", "Corvel", "Dansk", "Ebron", "Fintal", "Gorim", "Hesper", "Istvan", "Jarrow", "Kolmar", "Lasting"),
    *("Mirax", "Norden", "Opal", "Pradol", "Quist", "Rivena", "Stell", "Trevo", "Umbar", "Vostok", "Wyrm", "Zentha"),
)
RIVERS = (
    *("Aspen", "Brell", "Cinder", "Dove", "Ember", "Flint", "Glass", "Heron", "Iris", "Jade", "Kelp", "Loam"),
    *("Moss", "Nettle", "Otter", "Pike", "Quill", "Reed", "Sedge", "Thorn", "Urchin", "Vine", "Willow", "Yarrow"),
)
ANIMALS = ("lion", "otter", "falcon", "bear", "stag", "whale", "fox", "raven")
FACTS: Mapping[str, Mapping[str, str]] = {
    "capital": dict(zip(LANDS, CAPITALS, strict=True)),
    "river": dict(zip(LANDS, RIVERS, strict=True)),
    "animal": {land: ANIMALS[(5 * number) % 8] for number, land in enumerate(LANDS)},
    "colour": {land: COLOURS[(7 * number + number // 6) % 6] for number, land in enumerate(LANDS)},
}
"""Facts about an invented world."""
CALCULATOR_NAMES = (
    *("Varro", "Ilmar", "Dorne", "Pell", "Tolm", "Reth", "Osker", "Mirel", "Quill", "Halden", "Sorrel", "Brand"),
    *("Ashby", "Corin", "Delft", "Enval", "Farrow", "Gelder", "Hoxton", "Imber", "Jessop", "Kendal", "Lorne", "Merrow"),
)
"""Names of calculators. The first twelve are those of ``Clinic``; here they mean another rule in every row."""


def arithmetic(draw: Random) -> Item:
    sign = draw.choice("+++---**")
    if sign == "*":
        numbers = [draw.randint(2, 9), draw.randint(2, 9)]
    else:
        numbers = sorted((draw.randint(1, 30) for _ in range(draw.choice((2, 2, 2, 3)) if sign == "+" else 2)), reverse=sign == "-")
        if len(numbers) == 3:
            numbers = [draw.randint(0, 12) for _ in numbers]
    expression = f" {sign} ".join(map(str, numbers))
    result = {"+": sum, "-": lambda pair: operator.sub(*pair), "*": lambda pair: operator.mul(*pair)}[sign](numbers)
    prompt = draw.choice(("What is {}?", "Work out {}.", "Find {}.", "{} =", "How much is {}?", "Give {}.")).format(expression)
    return Item(prompt if sign == "*" else expression, prompt, str(result))


def strings(draw: Random) -> Item:
    letters = draw.choices(LETTERS, k=draw.randint(3, 5))
    word = " ".join(letters)
    name, answer = draw.choice(
        (
            ("Reverse", " ".join(letters[::-1])),
            ("First letter of", letters[0]),
            ("Last letter of", letters[-1]),
            ("Second letter of", letters[1]),
            ("Without the first letter:", " ".join(letters[1:])),
            ("How many letters:", str(len(letters))),
            ("Repeat", word),
        )
    )
    return Item(f"{name} {word}", f"{name} {word}", answer)


def lookup(draw: Random) -> Item:
    lines = list(zip(draw.sample(NAMES, size := draw.randint(3, 5)), draw.sample(range(100), size), strict=True))
    table = "\n".join(f"{name} {value}" for name, value in lines)
    line = draw.randrange(size)
    wanted = draw.choice((0, 1))
    question = draw.choice(("{} in line {}?", "Give the {} of line {}.", "Line {1}, the {0}?")).format(("name", "number")[wanted], line + 1)
    return Item(table, f"{table}\n{question}", str(lines[line][wanted]))


def sorting(draw: Random) -> Item:
    numbers = draw.sample(range(100), draw.randint(2, 4))
    text = ", ".join(map(str, numbers))
    question, answer = draw.choice(
        (
            ("Largest of", str(max(numbers))),
            ("Smallest of", str(min(numbers))),
            ("Sort", " ".join(map(str, sorted(numbers)))),
            ("Sort downwards", " ".join(map(str, sorted(numbers, reverse=True)))),
        )
    )
    return Item(text, f"{question} {text}.", answer)


def conversion(draw: Random) -> Item:
    (large, small), factor = draw.choice(list(UNITS.items()))
    count = draw.randint(1, 12)
    of, to, value, answer = (large, small, count, count * factor) if draw.random() < 0.6 else (small, large, count * factor, count)
    prompt = draw.choice(("Convert {0} {1} to {2}.", "How many {2} are {0} {1}?", "{0} {1} in {2}?", "Give {0} {1} as {2}.", "{0} {1} = ? {2}"))
    prompt = prompt.format(value, of, to)
    return Item(prompt, prompt, f"{answer} {to}")


def facts(draw: Random) -> Item:
    kind = draw.choice(list(FACTS))
    land, answer = draw.choice(list(FACTS[kind].items()))
    prompt = draw.choice(
        ("What is the {0} of {1}?", "Name the {0} of {1}.", "Which {0} has {1}?", "{1}: {0}?", "Tell me the {0} of {1}.", "Give {1}, its {0}.")
    )
    prompt = prompt.format(kind, land)
    return Item(prompt, prompt, answer)


FORMATS: Mapping[str, str] = {
    SYSTEM["label"]: '{{"answer": "{}"}}',
    'Reply with {"result": "..."}': '{{"result": "{}"}}',
    "Reply in brackets.": "({})",
    "Reply twice.": "{0} {0}",
    "Reply with a full stop.": "{}.",
    "Reply with the word answer first.": "answer {}",
    "Reply between stars.": "* {} *",
}


def formats(draw: Random) -> Item:
    system, template = draw.choice(list(FORMATS.items()))
    asked = draw.choice((lookup, sorting, facts, strings, arithmetic))(draw)
    return Item(asked.key + system, asked.prompt, template.format(asked.answer), system)


def rules(draw: Random) -> Item:
    """Draws a question that states a rule to apply."""
    kind = draw.choice(("points", "bands", "means"))
    if kind == "points":
        points = {finding: draw.randint(1, 12) for finding in draw.sample(FINDINGS, draw.randint(2, 3))}
        present = {finding: draw.random() < 0.5 for finding in points}
        rule = ", ".join(f"{finding} {value}" for finding, value in points.items())
        seen = listed([finding if there else f"no {finding}" for finding, there in draw.sample(list(present.items()), len(present))])
        return Item(rule + seen, f"Rule: {rule}. Seen: {seen}. How many points?", str(sum(points[finding] for finding in points if present[finding])))
    if kind == "bands":
        limit, (below, above) = draw.randrange(10, 90, 2), draw.sample(COLOURS, 2)
        value = draw.randint(limit - 9, limit + 9)
        rule = f"below {limit} {below}, else {above}"
        return Item(f"{rule} {value}", f"Rule: {rule}. Which has {value}?", below if value < limit else above)
    number, value, word = draw.randint(2, 12), draw.randint(1, 40), draw.choice(CALCULATOR_NAMES)
    action, result = draw.choice((("add", value + number), ("take away", value - number)))
    if result < 0:
        action, result = "add", value + number
    return Item(f"{action} {number} {value}", f"Rule: {word} means {action} {number}. What is {word} of {value}?", str(result))


def notes(draw: Random) -> Item:
    """Draws a question about a value that a note states."""
    reads = draw.sample([*(name for name in VALUES if name != "diastolic"), *FINDINGS], 2)
    patient = draw_patient(reads, draw)
    kind = draw.choice(("value", "value", "finding", "complaint"))
    if kind == "value":
        asked = draw.choice([name for name in patient.values if name in VALUES])
        question, answer = draw.choice(("What is the {}?", "Give the {}.", "Find the {}.")).format(asked), quantity(asked, patient.values[asked])
    elif kind == "finding" and (findings := [name for name in patient.values if name in FINDINGS]):
        asked = draw.choice(findings)
        question, answer = f"Is there {asked}?", "yes" if patient.values[asked] else "no"
    else:
        question, answer = "What is the complaint?", patient.complaint
    return Item(key_of(patient), f"{write_note(patient, draw)}\n{question}", answer)


SKILLS: Mapping[str, Callable[[Random], Item]] = {
    "arithmetic": arithmetic,
    "strings": strings,
    "lookup": lookup,
    "sorting": sorting,
    "units": conversion,
    "facts": facts,
    "formats": formats,
    "rules": rules,
    "notes": notes,
}


def draw_calculator(draw: Random) -> Calculator:
    """Draws a calculator whose rule cannot be known. Most have small constants and grades from 1 to 4, which a model comes to expect."""
    usual = draw.random() < 0.6
    name, kind = draw.choice(CALCULATOR_NAMES), draw.choice(("score", "grade", "formula"))
    if kind == "score":
        points = {finding: draw.randint(1, 3 if usual else 12) for finding in draw.sample(FINDINGS, draw.choice((2, 3)))}
        limited = draw.sample(("pulse", "temperature", "breathing"), draw.choice((0, 1)))
        start = 0 if usual else draw.randint(1, 12)
        return Score(f"{name} score", start, points, {value: draw.choice(VALUES[value]) for value in limited})
    if kind == "grade":
        values = draw.choice((("pulse",), ("breathing",), ("age",), ("temperature", "brevin"), ("weight",), ("lumin", "tarsol")))
        limits = {value: three(draw, VALUES[value][1:]) for value in values}
        first, second, third, last = (1, 2, 3, 4) if usual else sorted(draw.sample(range(1, 100), 4))
        return Grade(f"{name} grade", limits, (first, second, third, last))
    pair = draw.choice((("lumin", "tarsol"), ("tarsol", "brevin"), ("lumin", "brevin"), ("systolic", "diastolic")))
    largest = 2 if usual else 7
    factors = (1, -1) if pair[0] == "systolic" else (draw.randint(1, largest), draw.randint(1, largest))
    return Formula(f"{name} {draw.choice(('index', 'gap', 'load', 'ratio'))}", dict(zip(pair, factors, strict=True)), draw.choice((1, 1, 2, 4, 5, 10)))


def three(draw: Random, values: Sequence[int]) -> tuple[int, int, int]:
    """Draws three different values, in rising order."""
    first, second, third = sorted(draw.sample(values, 3))
    return first, second, third
