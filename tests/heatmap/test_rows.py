from collections.abc import Sequence
from pathlib import Path

import pytest

from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message, Split
from lit_talr.domains import Records
from lit_talr.heatmap.rows import read_rows
from tests.helpers.fits import records


class Few(Records):
    """Rows of which the second is too long."""

    lengths: Sequence[int] = (3, 300, 5, 7)

    def examples(self, split: Split) -> list[Example]:
        return [Example.from_prompt("a" * length, "b" * length) for length in self.lengths]


def few(folder: Path, too_long: str = "drop") -> Few:
    return Few(str(folder / "tokenizer"), encoding=Encoding(max_length=200, too_long=too_long))  # type: ignore[arg-type]


def answers(data: Records, split: Split, numbers: list[int] | None, num_examples: int = 8) -> list[tuple[int, int]]:
    return [(row.number, int(row.encoded.supervised.sum()) - 1) for row in read_rows(data, split, numbers, num_examples)]


def test_rows_have_the_numbers_of_the_run(folder: Path) -> None:
    assert answers(few(folder), "val", None) == [(0, 3), (1, 5), (2, 7)]
    assert answers(few(folder), "test", None) == [(0, 3), (2, 5), (3, 7)]  # where one that is too long counts as wrong
    assert answers(few(folder), "val", [2, 0]) == [(0, 3), (2, 7)]
    assert answers(few(folder), "val", None, 1) == [(0, 3)]


def test_rows_behind_the_last_are_not_encoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = records(folder)
    seen: list[Example] = []
    encode = data.encoder.encode
    monkeypatch.setattr(data.encoder, "encode", lambda example: (seen.append(example), encode(example))[1])
    assert len(read_rows(data, "train", [4], 8)) == 1 and len(seen) == 5


@pytest.mark.parametrize(
    ("numbers", "num_examples", "sentence"),
    [
        ([0, 9], 8, "`rows`: there is no val row 9 that can be shown; there are 3, numbered from 0."),
        ([1, 1], 8, r"`rows` must be different row numbers from 0, such as \[0,3\], got \[1, 1\]"),
        ([-1], 8, r"got \[-1\]"),
        ([], 8, r"got \[\]"),
        (None, 0, "`num_examples` must be at least 1, got 0"),
    ],
)
def test_rows_that_are_not_there_are_refused(folder: Path, numbers: list[int] | None, num_examples: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_rows(few(folder), "val", numbers, num_examples)


def test_rows_that_cannot_be_encoded_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="more than the 200 allowed"):
        read_rows(few(folder, "error"), "val", None, 8)
    data = few(folder)
    nothing = Example([Message(role="user", content="a")], (), {"where": "rows.jsonl: row 1"})
    monkeypatch.setattr(data, "examples", lambda split: [nothing])
    with pytest.raises(ValueError, match=r"rows.jsonl: row 1: This has no supervised turn, so there is nothing to learn"):
        read_rows(data, "val", None, 8)
    monkeypatch.setattr(data, "examples", lambda split: [])
    with pytest.raises(ValueError, match="There is no val row to show"):
        read_rows(data, "val", None, 8)
