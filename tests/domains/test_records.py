import json
from pathlib import Path
from typing import Any

import pytest

from lit_talr.domains import Records

TURNS = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "bye"},
]


def records(folder: Path, *rows: dict[str, Any], **options: Any) -> Records:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Records("no-tokenizer", train=str(path), **options)


def test_prompt_and_response(tmp_path: Path) -> None:
    (example,) = records(tmp_path, {"q": "3 + 4?", "a": "7"}, prompt="q", response="a", system="Add.").examples("train")
    assert [(message["role"], message["content"]) for message in example.messages] == [("system", "Add."), ("user", "3 + 4?"), ("assistant", "7")]
    assert example.supervised == (2,)
    assert example.meta["answer"] == "7"


@pytest.mark.parametrize(("turns", "supervised"), [("last", (3,)), ("all", (1, 3))])
def test_conversations_end_with_their_last_assistant_turn(tmp_path: Path, turns: Any, supervised: tuple[int, ...]) -> None:
    (example,) = records(tmp_path, {"messages": TURNS}, messages="messages", turns=turns).examples("train")
    assert list(example.messages) == TURNS[:4]
    assert example.supervised == supervised
    assert example.meta["answer"] == "2"


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"prompt": "a", "response": ""}, {}, "rows.jsonl: row 1: `response` must be a text that is not empty, got ''"),
        ({"prompt": None, "response": "b"}, {}, "rows.jsonl: row 1: `prompt` must be a text that is not empty, got None"),
        ({"prompt": "a"}, {}, "rows.jsonl: column `response` is missing; the file has `prompt`"),
        ({"messages": "hello"}, {"messages": "messages"}, "row 1: `messages` must be a list of turns"),
        ({"messages": []}, {"messages": "messages", "system": "Add."}, "row 1: `messages` must be a list of turns"),
        ({"messages": [{"role": "user"}]}, {"messages": "messages"}, "row 1: `messages`: Turn 0 must have a text as `content`"),
        (
            {"messages": TURNS[:1]},
            {"messages": "messages"},
            "row 1: `messages` has no turn of the role `assistant` that is learned, so there is nothing to learn",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        records(tmp_path, row, **options).examples("train")


def test_a_split_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data.test` is missing"):
        records(tmp_path, {"prompt": "a", "response": "b"}).examples("test")
