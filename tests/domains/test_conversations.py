import json
import re
from pathlib import Path
from typing import Any

import pytest

from lit_talr.data.example import Weight
from lit_talr.domains import Records
from lit_talr.domains.conversations import conversation
from tests.domains.test_records import records

USER, ANSWER = {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}
NO, YES = {**ANSWER, "train": False}, {**ANSWER, "weight": 1}


@pytest.mark.parametrize(
    ("turns", "choice", "supervised"),
    [
        ([USER, NO, USER, ANSWER], "all", (3,)),
        ([USER, ANSWER, USER, NO], "all", (1,)),
        ([USER, YES, USER, ANSWER], "last", (1, 3)),
        ([USER, YES, USER, {**ANSWER, "weight": 0}], "last", (1,)),
        ([{**USER, "weight": 0}, ANSWER], "last", (1,)),
    ],
)
def test_a_turn_says_whether_it_is_learned(turns: Any, choice: Any, supervised: tuple[int, ...]) -> None:
    example = conversation(turns, "messages", choice, None, "row 1")
    assert example.supervised == supervised
    assert all(message.keys() == {"role", "content"} for message in example.messages)


def test_a_turn_says_how_much_it_weighs() -> None:
    turns: Any = [USER, {**ANSWER, "weight": 2}, USER, {**ANSWER, "content": "345", "weight": 0.5, "weights": [[1, 3, 0]]}, USER, NO]
    example = conversation(turns, "messages", "last", "Be kind.", "row 1")
    assert example.supervised == (2, 4) and all(message.keys() == {"role", "content"} for message in example.messages)
    assert example.weights == [Weight(2, 2), Weight(4, 0.5), Weight(4, 0, (1, 3))]
    assert conversation([USER, {**ANSWER, "weights": [[0, 1, 3]]}, USER, ANSWER], "messages", "last", None, "row 1").supervised == (1, 3)
    assert conversation([USER, NO, USER, YES], "messages", "all", None, "row 1").weights == [Weight(1, 0)]


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([{"role": "human", "content": "1" * 200}, {"role": "gpt", "content": "2"}], "got 'human'; rename it to 'user' (the roles here are 'human', 'gpt')"),
        ([USER, {"role": "model", "content": "2"}], "Turn 1 must have a `role` out of system, user, assistant, tool, got 'model'; rename it to 'assistant'"),
        ([{**USER, "content": "x" * 200}, {"role": "assistant"}], "row 1: `messages`: Turn 1 must have a text as `content`"),
        (
            [USER, {**ANSWER, "weight": -0.5}],
            "row 1: `messages`: Turn 1: `weight` must be a finite number of at least 0 that float32 can hold, got -0.5; correct",
        ),
        ([USER, {**ANSWER, "weight": float("nan")}], "Turn 1: `weight` must be a finite number of at least 0 that float32 can hold, got nan"),
        ([USER, {**ANSWER, "weight": True}], "Turn 1: `weight` must be a finite number of at least 0 that float32 can hold, got True"),
        ([USER, {**ANSWER, "weight": "0.5"}], "Turn 1: `weight` must be a number, got the text '0.5'; write it without quotes"),
        ([USER, {**ANSWER, "weights": [[0, 2, 0]]}], "Turn 1: `weights` must name spans within the 1 characters of the text, start < end, got [0, 2); correct"),
        ([USER, {**ANSWER, "weights": [[0, 1]]}], "Turn 1: `weights` must be a list of [start, end, weight], with start and end in characters, got [[0, 1]]"),
        ([USER, {**ANSWER, "weights": [[0, 1, "x"]]}], "Turn 1: `weights` must be a finite number of at least 0 that float32 can hold, got 'x'"),
        ([USER, {**NO, "weights": [[0, 1, 2]]}], "Turn 1 has `train` False and `weights` [[0, 1, 2]], of which one learns it and one does not"),
        ([{**USER, "weights": [[0, 1, 2]]}, ANSWER], "Turn 0 of the role `user` is to be learned, but only an assistant's turn can be; leave out `weights`"),
        ([USER, {**ANSWER, "train": "no"}], "Turn 1 must have true or false as `train`, got 'no'"),
        ([USER, {**NO, "weight": 1}], "Turn 1 has `train` False and `weight` 1"),
        ([{**USER, "train": True}, ANSWER], "Turn 0 of the role `user` is to be learned, but only an assistant's turn can be"),
        ([USER, {**ANSWER, "thoughts": "hm"}], "Turn 1 has the key `thoughts`, which no chat template is given"),
        ([USER, NO], "row 1: `messages` has no turn of the role `assistant` that is learned"),
    ],
)
def test_the_cause_is_named(turns: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        conversation(turns, "messages", "last", None, "row 1")


def test_nothing_of_a_row_is_lost(tmp_path: Path) -> None:
    """The objects of a file keep their own keys, though those of other rows differ."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    other = {"type": "function", "function": {"name": "g", "arguments": {"y": "z"}}}
    turns = [[USER, {"role": "assistant", "content": None, "tool_calls": [one]}] for one in (call, other)]
    turns[0][0] = {"role": "user", "content": [{"type": "text", "text": "1"}]}
    tools = [{"name": "f", "parameters": {"x": "int"}}]
    rows = [{"messages": turns[0], "tools": tools, "chat_template_kwargs": {"day": 3}}, {"messages": turns[1], "tools": json.dumps(tools)}]
    first, second = records(tmp_path, *rows, messages="messages").examples("train")
    assert (first.tools, first.template_arguments, second.tools, second.template_arguments) == (tools, {"day": 3}, tools, {})
    assert [example.messages[1]["tool_calls"] for example in (first, second)] == [[call], [other]]
    assert first.messages[0]["content"] == [{"type": "text", "text": "1"}]


@pytest.mark.parametrize(("column", "value", "noun"), [("tools", "f", "a list of objects"), ("chat_template_kwargs", "[1]", "an object")])
def test_columns_of_another_kind(tmp_path: Path, column: str, value: str, noun: str) -> None:
    data: Records = records(tmp_path, {"prompt": "a", "response": "b", column: value})
    with pytest.raises(ValueError, match=f"row 1: `{column}` must be {noun}, or one as JSON text"):
        data.examples("train")
