import hashlib
import json
import re
from collections import Counter
from random import Random

import pytest

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.lab import Clinic, Skills
from lit_talr.lab.clinic import CALCULATORS
from lit_talr.lab.skill_items import CALCULATOR_NAMES, FACTS, FINDINGS, SKILLS, UNITS, Item
from lit_talr.lab.skills import PRACTICE

TOKENIZER = "lit_talr/lab/base"
SPLITS: tuple[Split, ...] = ("train", "val", "test")
EVERYTHING = dict.fromkeys([*SKILLS, *PRACTICE], 1.0)


def rows(split: Split = "train", size: int = 400, seed: int = 0, skills: dict[str, float] = EVERYTHING) -> list[Example]:
    return list(Skills(TOKENIZER, skills=skills, train_size=size, val_size=size, test_size=size, seed=seed).examples(split))


def items(skill: str, number: int = 300) -> list[Item]:
    draw = Random(0)
    return [SKILLS[skill](draw) for _ in range(number)]


def test_arithmetic_is_right() -> None:
    for item in items("arithmetic"):
        (expression,) = re.findall(r"\d+(?: [-+*] \d+)+", item.prompt)
        first, *rest = re.findall(r"[-+*]|\d+", expression)
        total = int(first)
        for sign, number in zip(rest[::2], map(int, rest[1::2]), strict=True):
            total = total + number if sign == "+" else total - number if sign == "-" else total * number
        assert item.answer == str(total) and total >= 0


def test_strings_are_as_they_were_asked_for() -> None:
    for item in items("strings"):
        asked, letters = re.fullmatch(r"([A-Z][a-z :]*?)((?: [a-z]){3,5})", item.prompt).groups()  # type: ignore[union-attr]
        word = letters.replace(" ", "")
        expected = {"Reverse": word[::-1], "First letter of": word[0], "Last letter of": word[-1], "Second letter of": word[1], "Repeat": word}
        expected |= {"Without the first letter:": word[1:], "How many letters:": str(len(word))}
        assert item.answer.replace(" ", "") == expected[asked]


def test_tables_are_read() -> None:
    for item in items("lookup"):
        *table, question = item.prompt.split("\n")
        (line,) = map(int, re.findall(r"\d+", question))
        assert item.answer == table[line - 1].split()["number" in question]


def test_numbers_are_sorted() -> None:
    for item in items("sorting"):
        numbers = [int(number) for number in re.findall(r"\d+", item.prompt)]
        question = item.prompt.split()[0]
        expected = {"Largest": [max(numbers)], "Smallest": [min(numbers)], "Sort": sorted(numbers, reverse="downwards" in item.prompt)}[question]
        assert [int(number) for number in item.answer.split()] == expected


def test_units_convert_both_ways() -> None:
    for item in items("units"):
        value, unit = item.answer.split()
        (given,) = map(int, re.findall(r"\d+", item.prompt))
        (pair,) = [pair for pair in UNITS if all(re.search(rf"\b{name}\b", item.prompt) for name in pair)]
        assert int(value) * UNITS[pair] == given if unit == pair[0] else given * UNITS[pair] == int(value)


def test_rules_are_applied() -> None:
    for item in items("rules"):
        rule, rest = item.prompt.removeprefix("Rule: ").split(". ", 1)
        if "points" in rest:
            points = {finding: int(value) for finding, value in re.findall(r"([a-z]+) (\d+)", rule)}
            present = re.findall(rf"(?<!no )\b({'|'.join(FINDINGS)})\b", rest)
            assert item.answer == str(sum(points[finding] for finding in present))
        elif rule.startswith("below"):
            ((limit, below, above),) = re.findall(r"below (\d+) (\w+), else (\w+)", rule)
            assert item.answer == (below if int(re.findall(r"\d+", rest)[0]) < int(limit) else above)
        else:
            number, value = int(re.findall(r"\d+", rule)[0]), int(re.findall(r"\d+", rest)[0])
            assert item.answer == str(value + number if "add" in rule else value - number)


def test_the_world_has_one_answer_to_each_question() -> None:
    assert all(len(land) == 24 for land in FACTS.values())
    assert len(set(FACTS["capital"].values())) == len(set(FACTS["river"].values())) == 24
    for item in items("facts"):
        (kind,) = [kind for kind in FACTS if kind in item.prompt]
        (land,) = [land for land in FACTS[kind] if land in item.prompt]
        assert item.answer == FACTS[kind][land]


def test_notes_state_what_is_asked() -> None:
    for item in items("notes"):
        note, question = item.prompt.split("\n")
        if question.startswith("Is there"):
            finding = question.removeprefix("Is there ").rstrip("?")
            assert (item.answer == "no") == (f"no {finding}" in note) and finding in note
        else:
            assert item.answer.split()[0] in note


def test_formats_say_the_same_in_the_form_that_is_asked_for() -> None:
    seen = set()
    for item in items("formats"):
        assert item.system is not None
        seen.add(item.system)
        if '{"' in item.system:
            (name,) = re.findall(r'"(\w+)"', item.system)
            assert list(json.loads(item.answer)) == [name]
    assert len(seen) == 7


@pytest.mark.parametrize("skill", SKILLS)
def test_nothing_that_is_asked_in_a_test_is_asked_in_training(skill: str) -> None:
    prompts = {split: {json.dumps(example.messages[:-1]) for example in rows(split, 2000 if split == "train" else 200, 0, {skill: 1.0})} for split in SPLITS}
    assert prompts["train"].isdisjoint(prompts["val"] | prompts["test"]) and prompts["val"].isdisjoint(prompts["test"])


def test_practice_never_teaches_the_rules_of_the_domain() -> None:
    worked = rows(size=3000, skills={"worked": 1.0})
    names = {match for example in worked for match in re.findall(r"([A-Z][a-z]+) (?:score|grade|index|gap|load|ratio)", example.messages[1]["content"])}
    assert names == set(CALCULATOR_NAMES) > {calculator.name.split()[0] for calculator in CALCULATORS}
    answers = [example.meta["value"] for example in worked if "Tolm grade" in example.messages[1]["content"]]
    assert Counter(answers).most_common(1)[0][1] < 0.6 * len(answers)


def test_practice_looks_like_the_domain() -> None:
    worked, direct = (rows(size=20, skills={name: 1.0})[0] for name in PRACTICE)
    for ours, target in ((worked, "cot"), (direct, "label")):
        theirs = Clinic(TOKENIZER, target=target, train_size=1).examples("train")[0]  # type: ignore[arg-type]
        assert ours.messages[0] == theirs.messages[0]
        assert list(json.loads(ours.messages[-1]["content"])) == list(json.loads(theirs.messages[-1]["content"]))


def test_a_larger_size_appends_and_the_seed_changes_training_only() -> None:
    assert rows(size=50) == rows(size=80)[:50]
    assert rows(size=50) != rows(size=50, seed=1)
    assert rows("test", 50) == rows("test", 50, seed=1)


def test_rows_are_the_same_everywhere() -> None:
    text = json.dumps([[list(example.messages), dict(example.meta)] for split in SPLITS for example in rows(split, 100)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "953384025eafd217"


def test_a_gold_answer_is_right_and_rows_are_short() -> None:
    encoder, data = ChatEncoder(load_tokenizer(TOKENIZER), Encoding(max_length=128)), Skills(TOKENIZER, skills=EVERYTHING)
    examples = rows(size=300)
    assert max(len(encoder.encode(example).input_ids) for example in examples) <= 128
    metric = data.metric()
    metric.update([example.messages[-1]["content"] for example in examples], examples)
    assert metric.compute()["score"] == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"skills": {"juggling": 1.0}}, "`skills` must give positive shares to some of arithmetic, .*juggling"),
        ({"skills": {"facts": 0.0}}, "`skills` must give positive shares"),
        ({"skills": {}}, "`skills` must give positive shares"),
        ({"test_size": 0}, "`test_size` must lie in .1, 1000000., got 0"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ],
)
def test_refusals(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Skills(TOKENIZER, **wrong)
