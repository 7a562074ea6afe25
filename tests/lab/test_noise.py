"""Noise stands in the explanations of training rows, as much as was asked for, where it was asked for, and nowhere else."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest

from lit_talr.data.encoder import ChatEncoder, Encoded
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example
from lit_talr.data.token_cache import encode_many
from lit_talr.lab import Clinic
from lit_talr.lab.clinic_notes import UNITS, VALUES
from lit_talr.lab.noise import NoiseKind, NoisePlacement
from tests.helpers.tiny import byte_tokenizer

TOKENIZER = "lit_talr/lab/base"
KINDS = list(product(get_args(NoiseKind), get_args(NoisePlacement)))
ALL = [case if index % 3 == 0 else pytest.param(*case, marks=pytest.mark.slow) for index, case in enumerate(KINDS)]  # each placement, two kinds
LONGEST = {"words": 1, "phrases": 4, "plausible": 9}  # tokens of a text


def clinic(noise: float = 0.1, kind: Any = "words", placement: Any = "anywhere", size: int = 120, **options: Any) -> Clinic:
    return Clinic(TOKENIZER, train_size=size, val_size=20, test_size=20, noise=noise, noise_kind=kind, noise_placement=placement, **options)


def noisy_rows(data: Clinic) -> tuple[Sequence[Example], list[Encoded]]:
    examples = data.examples("train")
    return examples, [data.encoder.encode(example) for example in examples]


def explanation_tokens(data: Clinic, row: Encoded) -> int:
    """The tokens from the key of the explanation, which is one token, to that of the answer."""
    tokens = [data.encoder.tokenizer.decode([token]) for token in row.input_ids[row.supervised]]
    assert tokens[0] == '{"step_by_step_thinking": "'
    return tokens.index('", "answer": "') - 1


@pytest.mark.parametrize(("kind", "placement"), ALL)
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_share_counts_tokens_of_the_noisy_explanations(noise: float, kind: str, placement: str) -> None:
    data = clinic(noise, kind, placement)
    _, rows = noisy_rows(data)
    num_noise, num_tokens = sum(int(row.noise.sum()) for row in rows), sum(explanation_tokens(data, row) for row in rows)
    wanted = noise / (1 - noise) * (num_tokens - num_noise)
    assert abs(num_noise - wanted) <= LONGEST[kind] / 2


@pytest.mark.parametrize(("kind", "placement"), ALL)
def test_without_its_noise_every_row_is_the_clean_one(kind: str, placement: str) -> None:
    data, clean = clinic(0.2, kind, placement), clinic(0)
    examples, rows = noisy_rows(data)
    for example, row, expected, other in zip(examples, rows, *noisy_rows(clean), strict=True):
        assert replace(example, insertions=()) == expected
        assert row.input_ids[~row.noise].tolist() == other.input_ids.tolist() and row.supervised[~row.noise].tolist() == other.supervised.tolist()
        assert row.supervised[row.noise].all()
    assert np.mean([row.noise.any() for row in rows]) > 0.6


@pytest.mark.parametrize("kind", get_args(NoiseKind))
def test_no_noise_changes_nothing_and_needs_no_tokenizer(kind: str) -> None:
    plain = Clinic(train_size=50).examples("train")
    assert plain == Clinic(train_size=50, noise=0, noise_kind=kind, noise_placement="starts").examples("train")  # type: ignore[arg-type]
    assert all(example.insertions == () for example in plain)


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_stay_clean(split: Any) -> None:
    assert clinic(0.3).examples(split) == clinic(0).examples(split)


@pytest.mark.parametrize(("kind", "placement"), ALL)
def test_more_rows_change_none_and_a_larger_share_takes_more_of_the_same(kind: str, placement: str) -> None:
    rows = clinic(0.1, kind, placement, 60).examples("train")
    assert rows == clinic(0.1, kind, placement, 120).examples("train")[:60]
    for less, more in zip(rows, clinic(0.5, kind, placement, 60).examples("train"), strict=True):
        assert less.insertions == more.insertions[: len(less.insertions)]


def test_the_seed_selects_the_noise() -> None:
    first, again, other = (clinic(seed=seed).examples("train") for seed in (0, 0, 1))
    assert first == again and [row.insertions for row in first] != [row.insertions for row in other]


@pytest.mark.parametrize(("kind", "placement"), ALL)
def test_noise_stands_where_it_was_asked_for(kind: str, placement: str) -> None:
    data, starts = clinic(0.3, kind, placement), 0
    for example in data.examples("train"):
        response = example.messages[-1]["content"]
        begin, end = response.index(': "') + 3, response.index('", "answer"')
        for _, at, text in example.insertions:
            starts += at == begin or response[:at].rstrip().endswith(".")
            assert begin <= at < end and text.startswith(" ") and text.endswith(" ") == (response[at - 1] == " ")
            if at != begin:
                assert at > begin and " " in response[at - 1 : at + 1]
    total = sum(len(example.insertions) for example in data.examples("train"))
    assert starts == total if placement == "starts" else 0.02 < starts / total < 0.3


@pytest.mark.slow
def test_words_are_one_token_each_and_many() -> None:
    data = clinic(0.3, size=400)
    words = Counter(text for example in data.examples("train") for _, _, text in example.insertions)
    assert all(re.fullmatch(" [A-Za-z]{3,} ?", word) for word in words) and len(words) > 250
    assert words.most_common(1)[0][1] / words.total() < 0.02
    _, rows = noisy_rows(data)
    assert sum(int(row.noise.sum()) for row in rows) == words.total()


def test_words_before_numbers_are_those_with_the_space_behind_them() -> None:
    """So a number follows a token that it follows in clean rows too, though not these."""
    data = clinic(0.3)
    for row in noisy_rows(data)[1]:
        tokens = data.encoder.tokenizer.convert_ids_to_tokens(row.input_ids.tolist())
        for at in np.flatnonzero(row.noise[:-1] & ~row.noise[1:]):
            assert tokens[at].endswith("Ġ") == bool(re.match("[0-9]", tokens[at + 1]))


def test_there_are_64_phrases_of_four_words_whatever_the_seed() -> None:
    drawn = [
        {text.strip() for example in clinic(0.4, "phrases", size=400, seed=seed).examples("train") for _, _, text in example.insertions} for seed in (0, 1)
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 64 and all(len(phrase.split()) == 4 for phrase in drawn[0])


def test_plausible_noise_is_true_by_itself_and_not_in_the_note() -> None:
    for example in clinic(0.4, "plausible").examples("train"):
        note = example.messages[1]["content"].split("\n")[0]
        for _, _, text in example.insertions:
            name, value, unit, wording, limit, _, points = re.fullmatch(  # type: ignore[union-attr]
                r"(\w+) (\d+) (\w+) (.+?) (\d+) (\w+)(?:: | gives | counts )([01])\.", text.strip()
            ).groups()
            assert unit == UNITS[name] and int(value) in VALUES[name] and int(limit) in VALUES[name]
            assert (int(value) >= int(limit)) == (points == "1") == (wording in ("at least", "reaches", "not below"))
            words = {"systolic": "(Pressure|pressure|Cuff)", "diastolic": "(Pressure|pressure|Cuff)", "temperature": "([Tt]emperature|thermometer)"}
            assert name != "age" and not re.search(words.get(name, f"[{name[0].upper()}{name[0]}]{name[1:]} (is |of |at |came |rate )?[0-9a-z]"), note), (
                name,
                note,
            )


@pytest.mark.parametrize(
    ("kind", "placement", "expected"),
    [("words", "anywhere", "8777511ae82e436a"), ("phrases", "starts", "3fd5f5ad80100b58"), ("plausible", "anywhere", "7066190bc7711f7f")],
)
def test_noise_is_the_same_everywhere(kind: str, placement: str, expected: str) -> None:
    text = json.dumps([list(example.insertions) for example in clinic(0.1, kind, placement, 24).examples("train")])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == expected


def test_processes_and_the_cache_keep_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_talr.data.token_cache.PIECE", 10)
    data = clinic(size=40)
    examples, rows = noisy_rows(data)
    for _ in ("computed", "read"):
        read = encode_many(data.encoder, examples, tmp_path / "run", "", show=False)
        assert [row.noise.tolist() for row in read if isinstance(row, Encoded)] == [row.noise.tolist() for row in rows]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise": 1.0}, "`noise` must lie in [0, 1), got 1.0."),
        ({"noise": -0.1}, "`noise` must lie in [0, 1), got -0.1."),
        ({"noise": float("nan")}, "`noise` must lie in [0, 1), got nan."),
        ({"noise_kind": "letters"}, "`noise_kind` must be one of words, phrases, plausible, got 'letters'."),
        ({"noise_placement": "ends"}, "`noise_placement` must be one of anywhere, starts, got 'ends'."),
        ({"noise": 0.1, "target": "label"}, "`noise` must be 0 with `target: label`, which has no explanations, got 0.1; set `target: cot`."),
    ],
)
def test_refuses(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Clinic(TOKENIZER, **options)


def test_refuses_a_tokenizer_without_words() -> None:
    data = clinic()
    data.encoder = ChatEncoder(byte_tokenizer(), Encoding())
    with pytest.raises(ValueError, match="`noise` needs a tokenizer with at least 64 words among its tokens, got 0; leave `noise` out."):
        data.examples("train")
