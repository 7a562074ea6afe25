import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.lab import Clinic
from lit_talr.lab.clinic import CALCULATORS, CATEGORIES, Calculator, split_of
from lit_talr.lab.clinic_notes import UNITS, VALUES, draw_patient, write_note
from lit_talr.lab.make_tokenizer import make
from lit_talr.utils.files import shipped
from tests.helpers.params import first_is_fast

TOKENIZER = "lit_talr/lab/base"
SPLITS: tuple[Split, ...] = ("train", "val", "test")
BY_NAME = {calculator.name: calculator for calculator in CALCULATORS}
# Worked by hand from the rules as they are written in the table of calculators.
WORKED = [
    ("Varro score", {"cough": 1, "chills": 0, "swelling": 1, "pulse": 90}, 16),
    ("Varro score", {"cough": 0, "chills": 0, "swelling": 0, "pulse": 80}, 6),
    ("Ilmar score", {"rash": 1, "tremor": 1, "temperature": 38}, 24),
    ("Ilmar score", {"rash": 1, "tremor": 0, "temperature": 37}, 18),
    ("Dorne score", {"nausea": 0, "tremor": 1, "cough": 1}, 18),
    ("Pell score", {"swelling": 0, "chills": 1, "breathing": 18}, 18),
    ("Pell score", {"swelling": 1, "chills": 0, "breathing": 16}, 13),
    ("Tolm grade", {"pulse": 60}, 15),
    ("Tolm grade", {"pulse": 70}, 32),
    ("Tolm grade", {"pulse": 100}, 47),
    ("Tolm grade", {"pulse": 110}, 61),
    ("Reth grade", {"breathing": 12}, 22),
    ("Reth grade", {"breathing": 22}, 74),
    ("Osker grade", {"age": 46}, 41),
    ("Osker grade", {"age": 54}, 56),
    ("Mirel grade", {"temperature": 41, "brevin": 1}, 92),
    ("Mirel grade", {"temperature": 35, "brevin": 6}, 35),
    ("Mirel grade", {"temperature": 40, "brevin": 6}, 58),
    ("Quill index", {"lumin": 4, "tarsol": 3}, 40),
    ("Halden gap", {"systolic": 150, "diastolic": 70}, 16),
    ("Sorrel load", {"tarsol": 5, "brevin": 8}, 70),
    ("Brand ratio", {"lumin": 4, "brevin": 7}, 11.75),
]


def rows(split: Split = "train", size: int = 120, target: str = "cot", seed: int = 0) -> list[Example]:
    return list(Clinic(TOKENIZER, target=target, train_size=size, val_size=size, test_size=size, seed=seed).examples(split))  # type: ignore[arg-type]


def note_of(example: Example) -> str:
    return example.messages[1]["content"].split("\n")[0]


def facts_of(example: Example) -> tuple[str, ...]:
    """What a note states, read back from its text: quantities, findings and negated findings."""
    note = note_of(example)
    quantities = re.findall(rf"[0-9]+ (?:{'|'.join(dict.fromkeys(UNITS.values()))})\b", note)
    return tuple(sorted([*quantities, *re.findall(r"(?:no )?(?:cough|chills|rash|swelling|nausea|tremor)", note)]))


@pytest.mark.parametrize(("name", "values", "expected"), WORKED)
def test_rules(name: str, values: Mapping[str, int], expected: float) -> None:
    assert set(BY_NAME[name].reads) == set(values)
    assert BY_NAME[name].answer(values) == expected


def test_every_calculator_is_worked_by_hand() -> None:
    assert {name for name, _, _ in WORKED} == set(BY_NAME) and len(CALCULATORS) == 12
    assert Counter(calculator.category for calculator in CALCULATORS) == dict.fromkeys(CATEGORIES, 4)


@pytest.mark.parametrize("calculator", CALCULATORS, ids=lambda calculator: calculator.name)
def test_the_explanation_ends_in_the_answer_and_shows_the_values(calculator: Calculator) -> None:
    draw = Random(0)
    wordings = set()
    for _ in range(200):
        values = draw_patient(calculator.reads, draw).values
        text = calculator.explanation(values, draw)
        wordings.add(re.sub(r"[0-9.]+", "#", text))
        assert float(re.findall(r"[0-9]+(?:\.[0-9]+)?", text)[-1]) == calculator.answer(values)
        assert all(str(values[name]) in text for name in calculator.reads if name in VALUES)
    assert len(wordings) >= 9


@pytest.mark.parametrize("target", ["cot", "label"])
def test_gold_answers_score_one_and_wrong_ones_nothing(target: str) -> None:
    examples = rows("test", 60, target)
    assert {example.meta["calculator"] for example in examples} == set(BY_NAME)
    metric = Clinic(TOKENIZER).metric()
    metric.update([example.messages[-1]["content"] for example in examples], examples)
    assert all(metric.compute()[name] == 1 for name in ("score", *(f"accuracy/{category}" for category in CATEGORIES)))
    metric.reset()
    metric.update([json.dumps({"answer": f"{float(example.meta['answer']) + 1:g}"}) for example in examples], examples)
    assert metric.compute()["score"] == 0


def test_only_the_decimal_result_has_a_tolerance() -> None:
    for example in rows():
        limits = tuple(float(example.meta[name]) / float(example.meta["answer"] or 1) if example.meta["answer"] != "0" else 1 for name in ("lower", "upper"))
        assert limits == pytest.approx((0.95, 1.05) if example.meta["calculator"] == "Brand ratio" else (1, 1), abs=1e-5)


def test_both_targets_ask_the_same() -> None:
    for cot, label in zip(rows(target="cot"), rows(target="label"), strict=True):
        assert cot.messages[1] == label.messages[1] and cot.meta == label.meta
        learned = json.loads(cot.messages[2]["content"])
        assert json.loads(label.messages[2]["content"]) == {"answer": learned["answer"]}
        assert list(learned) == ["step_by_step_thinking", "answer"]


def test_meta_names_the_row() -> None:
    example = rows("test")[12]
    assert example.meta["where"] == "Clinic test, row 12" and example.meta["calculator"] == "Varro score" and example.meta["category"] == "score"


@pytest.mark.parametrize("seeds", first_is_fast((0, 1, 2), (0, 0, 0), (1, 1, 1), (7, 7, 7)))
def test_no_note_and_no_case_is_in_two_splits(seeds: tuple[int, int, int]) -> None:
    examples = {split: rows(split, 800, seed=seed) for split, seed in zip(SPLITS, seeds, strict=True)}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {*map(note_of, examples[one])} & {*map(note_of, examples[other])}  # type: ignore[index]
        assert not {*map(facts_of, examples[one])} & {*map(facts_of, examples[other])}  # type: ignore[index]
    assert len({(example.meta["calculator"], facts_of(example)) for example in examples["train"]}) == 800


def test_the_values_alone_decide_the_split() -> None:
    draw = Random(0)
    splits = Counter(split_of(draw_patient(["pulse"], draw)) for _ in range(2000))
    assert splits["train"] / 2000 == pytest.approx(12 / 16, abs=0.05) and splits["val"] / 2000 == pytest.approx(2 / 16, abs=0.03)


@pytest.mark.parametrize("split", SPLITS)
def test_a_larger_size_only_appends(split: Split) -> None:
    assert rows(split, 50) == rows(split, 200)[:50]


def test_calculators_can_be_chosen() -> None:
    data = Clinic(TOKENIZER, calculators=["Brand ratio", "Varro score"], test_size=10)
    assert {example.meta["calculator"] for example in data.examples("test")} == {"Brand ratio", "Varro score"}


def test_one_split_does_not_depend_on_the_sizes_of_the_others() -> None:
    assert rows("test", 50) == list(Clinic(TOKENIZER, train_size=7, val_size=3, test_size=50).examples("test"))


def test_rows_are_the_same_everywhere() -> None:
    text = json.dumps([[list(example.messages), dict(example.meta)] for split in SPLITS for example in rows(split, 24)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "da57309403feb8e0"
    assert rows(seed=0) != rows(seed=1)


def test_answers_are_balanced() -> None:
    examples = rows(size=2400)
    assert Counter(example.meta["answer"] for example in examples).most_common(1)[0][1] / len(examples) < 0.3
    for name in BY_NAME:
        answers = Counter(example.meta["answer"] for example in examples if example.meta["calculator"] == name)
        assert answers.total() == 200 and answers.most_common(1)[0][1] / 200 < 0.55, name


def test_a_note_states_the_values_of_its_patient_and_no_other() -> None:
    draw = Random(0)
    for calculator in CALCULATORS * 20:
        patient = draw_patient(calculator.reads, draw)
        note = write_note(patient, draw)
        assert set(calculator.reads) <= set(patient.values)
        stated = Counter(re.findall(r"[0-9]+ [a-zA-Z]+", note))
        assert stated == Counter(f"{value} {UNITS[name]}" for name, value in patient.values.items() if name in UNITS)
        for finding in ("cough", "chills", "rash", "swelling", "nausea", "tremor"):
            assert len(re.findall(rf"\b{finding}\b", note)) == (finding in patient.values)
            assert (f"no {finding}" in note) == (patient.values.get(finding) == 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train_size": 10**9}, "`train_size` must lie in [1, 1000000], got 1000000000; rows are made"),
        ({"train_size": 0}, "`train_size` must lie in [1, 1000000], got 0;"),
        ({"val_size": 0}, "`val_size` must lie in [1, 1000000], got 0;"),
        ({"test_size": -1}, "`test_size` must lie in [1, 1000000], got -1;"),
        ({"seed": -1}, "`seed` must be at least 0, got -1."),
        ({"calculators": []}, "`calculators` must be some of Varro score, "),
        ({"calculators": ["Varro"]}, "Brand ratio, got Varro."),
    ],
)
def test_refuses(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Clinic(TOKENIZER, **options)


@pytest.mark.parametrize("target", ["cot", "label"])
def test_the_shipped_tokenizer_round_trips_in_few_tokens(target: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)  # it is found from any folder
    encoder = ChatEncoder(load_tokenizer(TOKENIZER), Encoding())
    lengths = []
    for example in rows(size=600, target=target):
        encoded = encoder.encode(example)
        lengths.append(len(encoded.input_ids))
        text = "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in example.messages)
        assert encoder.tokenizer.decode(encoded.input_ids, clean_up_tokenization_spaces=False) == text
        assert encoder.tokenizer.decode(encoded.input_ids[encoded.supervised]) == example.messages[-1]["content"] + "<|end|>"
    assert max(lengths) <= 160


def test_any_text_survives_the_shipped_tokenizer() -> None:
    tokenizer = load_tokenizer(TOKENIZER)
    for text in ("Größe — 3,5 µg;  two  spaces\n\ttab", "日本", "1234567 mm2", "-1 - -2"):
        assert tokenizer.decode(tokenizer(text).input_ids, clean_up_tokenization_spaces=False) == text


def test_the_shipped_vocabulary_is_the_one_that_the_base_was_trained_with() -> None:
    """Made again after a change of texts, the same words would get other numbers."""
    assert hashlib.sha256(Path(shipped(TOKENIZER), "tokenizer.json").read_bytes()).hexdigest()[:16] == "7eb9741ec0d68574"
    assert len(load_tokenizer(TOKENIZER)) == json.loads(Path(shipped(TOKENIZER), "config.json").read_text())["vocab_size"]


@pytest.mark.slow
def test_the_command_makes_a_tokenizer_like_the_shipped_one() -> None:
    made, ours = make(4096), load_tokenizer(TOKENIZER)
    assert made.chat_template == ours.chat_template and len(made.get_vocab().keys() & ours.get_vocab().keys()) > 0.8 * len(ours)
    for example in rows(size=100):
        text = example.messages[-1]["content"]
        assert made.decode(made(text).input_ids, clean_up_tokenization_spaces=False) == text
        assert len(made(text).input_ids) == pytest.approx(len(ours(text).input_ids), rel=0.1)


def test_another_wording_asks_the_same_items() -> None:
    own = rows("test", 6)
    for name, turns in (("task_first", ["system", "user", "assistant"]), ("no_system", ["user", "assistant"])):
        other = list(Clinic(TOKENIZER, test_size=6, prompt_file=Path(f"lit_talr/configs/prompts/clinic_{name}.yaml")).examples("test"))
        assert [example.meta for example in other] == [example.meta for example in own] and [turn["role"] for turn in other[0].messages] == turns
        lines = [sorted(example.messages[-2]["content"].split("\n")) for example in (own[0], other[0])]
        assert lines[0] == lines[1]
