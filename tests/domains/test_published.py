from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lit_talr.domains import ESCI, GSM8K, MedCalc, MetaMathQA
from lit_talr.domains.published import Published
from tests.helpers.esci_rows import write_esci
from tests.helpers.math_rows import gsm8k_row, metamath_row, write_gsm8k, write_metamath, write_rows
from tests.helpers.medcalc_rows import medcalc_row, write_medcalc

WRITERS: dict[type[Published], Callable[[Path], list[str]]] = {ESCI: write_esci, GSM8K: write_gsm8k, MedCalc: write_medcalc, MetaMathQA: write_metamath}

LAMP = "Title: Lamp number 1000\nColor: Black\nBullet points: Bright\nSmall\nDescription: " + ("A lamp that shines. " * 10).strip()


def domain(kind: type[Published], folder: Path, **options: Any) -> Published:
    words = WRITERS[kind](folder)
    files = {name.removeprefix("--data."): file for name, file in zip(words[::2], words[1::2], strict=True)}
    return kind("no-tokenizer", **{"validation": 0.3, **files, **options})


def questions(data: Published, *splits: Any) -> set[str]:
    return {example.prompt[-1]["content"] for split in splits for example in data.examples(split)}


@pytest.mark.parametrize("kind", WRITERS)
def test_validation_is_split_by_the_text_alone(tmp_path: Path, kind: type[Published]) -> None:
    make = partial(domain, kind, tmp_path)
    whole, fewer, other = make(), make(max_rows=16), make(split_seed=1)
    train, val = questions(whole, "train"), questions(whole, "val")
    assert train and val and not train & val
    assert questions(fewer, "val") <= val and questions(fewer, "train", "val") < train | val
    assert questions(other, "val") != val


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ESCI, {"validation": 1.0}, r"`validation` must lie in \(0, 1\), got 1.0; it is the share"),
        (GSM8K, {"validation": 0}, r"`validation` must lie in \(0, 1\), got 0"),
        (MedCalc, {"validation": 1.5}, r"`validation` must lie in \(0, 1\), got 1.5"),
        (MetaMathQA, {"validation": float("nan")}, r"`validation` must lie in \(0, 1\), got nan"),
        (ESCI, {"max_rows": 0}, "`max_rows` must be at least 1, got 0; leave it out for all rows"),
        (MetaMathQA, {"max_rows": -1}, "`max_rows` must be at least 1, got -1"),
        (MedCalc, {"prompt_file": Path("nowhere.yaml")}, "nowhere.yaml does not exist"),
    ],
)
def test_arguments_are_checked(kind: type[Published], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind("x", **options)


@pytest.mark.parametrize(
    ("kind", "text", "system", "expected"),
    [
        (ESCI, "user: 'Q {query} P {product}'", [], f"Q test lamp 0 P {LAMP}"),
        (GSM8K, "system: Be brief.\nuser: 'Question: {question}'", ["Be brief."], f"Question: {gsm8k_row(1000)['question']}"),
        (
            MedCalc,
            'user: "{question} {\\"form\\": 1} NOTE {note}"\n',
            [],
            f'{medcalc_row(1000)["Question"]} {{"form": 1}} NOTE {medcalc_row(1000)["Patient Note"]}',
        ),
        (MetaMathQA, "system: x\nuser: '{question}{question}'", ["x"], metamath_row(0)["query"] * 2),
    ],
)
def test_a_prompt_file_gives_another_wording(tmp_path: Path, kind: type[Published], text: str, system: list[str], expected: str) -> None:
    (tmp_path / "prompt.yaml").write_text(text)
    split: Any = "train" if kind is MetaMathQA else "test"
    turns = [message["content"] for message in domain(kind, tmp_path / "rows", prompt_file=tmp_path / "prompt.yaml").examples(split)[0].prompt]
    assert turns == [*system, expected]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (ESCI, "user: '{query}'", r"the text `user` does not contain \{product\}"),
        (GSM8K, "user: no placeholder", r"the text `user` does not contain \{question\}"),
        (MedCalc, "user: 'only {note}'", r"the text `user` does not contain \{question\}"),
        (MetaMathQA, "user: '{query}'", r"the text `user` does not contain \{question\}"),
        (MedCalc, "system: x", "must hold the texts `user`"),
        (GSM8K, "usr: x", "must hold the texts `user`"),
    ],
)
def test_prompt_files_are_checked(tmp_path: Path, kind: type[Published], text: str, message: str) -> None:
    (tmp_path / "prompt.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        kind("x", prompt_file=tmp_path / "prompt.yaml")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "?"}])
    with pytest.raises(ValueError, match=r"rows.jsonl: column `answer` is missing; the file has `question`"):
        GSM8K("x", test=path).examples("test")
