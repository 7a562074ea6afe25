from typing import Any

import datasets
import pytest

from lit_talr.domains.rows import folded, held_out, named_rows, require_text


def test_held_out_depends_on_the_text_alone() -> None:
    texts = [f"note {n % 500}" for n in range(1000)]
    sides = held_out(texts, 0.2, seed=0)
    assert sides[:500] == sides[500:]
    assert held_out(texts[::-1], 0.2, seed=0) == sides[::-1]
    assert 60 < sum(sides[:500]) < 140
    assert held_out(texts, 0.2, seed=1) != sides


def test_questions_are_compared_without_white_space_and_case() -> None:
    assert folded(" How\nmany  EGGS?") == folded("how many eggs?") != folded("how many egg?")


def test_rows_are_named_by_file_and_number() -> None:
    rows = datasets.Dataset.from_dict({"x": [5, 6, 7]})
    assert list(named_rows("a.csv", rows))[::2] == list(named_rows("a.csv", rows, [0, 2])) == [({"x": 5}, "a.csv: row 1"), ({"x": 7}, "a.csv: row 3")]
    assert list(named_rows("a.csv", rows, [])) == []


def test_a_text_is_returned_as_it_is() -> None:
    assert require_text(" a ", "x", "a.csv: row 1") == " a "


@pytest.mark.parametrize(
    ("value", "got"),
    [
        *((value, ".*; fill it in or remove the row") for value in ("", " \n", None)),
        (b"a", "the bytes b'a'; decode them to text, as from UTF-8, where the file is written"),
        (7, "a number, 7; write it as a text"),
        (False, "true or false, False; write it as a text"),
        (["a"], r"a list, \['a'\]; write it as a text"),
    ],
)
def test_what_is_no_text_is_refused(value: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"a.csv: row 1: `x` must be a text that is not empty, got {got}"):
        require_text(value, "x", "a.csv: row 1")
