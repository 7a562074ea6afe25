import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from jsonargparse import ArgumentParser

from lit_talr.data.example import Weight
from lit_talr.domains import DomainDataModule, Records
from lit_talr.metrics import ExactMatch, NumericMatch

TURNS = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "bye"},
]


WAY_OUT = "remove them from one of the two, or give `data.overlap: drop`."


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
        (
            {"prompt": None, "response": None, "question": "a", "answer": "b"},
            {},
            "rows.jsonl: row 1 has no `prompt`; it has `question`, `answer`; fill it in, name it as the other rows do, or remove the row",
        ),
        ({"prompt": "a"}, {"response": "prompt"}, "`data.prompt` and `data.response` must name two columns, got `prompt` and `prompt`"),
        ({"conversations": TURNS}, {}, "has `conversations`; if `conversations` holds conversations, give `--data.messages conversations`"),
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


@pytest.mark.parametrize(
    ("row", "options", "remarks"),
    [
        (
            {"instruction": "Add.", "input": "3 4", "output": "7"},
            {"prompt": "instruction", "response": "output"},
            ["these columns are not read: `input`; join into `instruction` what the model should see (or give `data.prompt` a list, [instruction, ...])."],
        ),
        (
            {"messages": TURNS, "tools": None, "prompt": "a"},
            {"messages": "messages", "system": "Add."},
            [
                "these columns are not read: `prompt`; join into `messages` what the model should see.",
                "the last turn of 1 of its 1 rows is not the assistant's, and what follows the last learned response is not read (the first: row 1); "
                "remove it, or add the response.",
            ],
        ),
        ({"messages": TURNS[:2]}, {"messages": "messages"}, []),
        ({"prompt": "a", "response": "b"}, {}, []),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, row: dict[str, Any], options: dict[str, Any], remarks: list[str]) -> None:
    data = records(tmp_path, row, **options)
    data.examples("train")
    assert data.unread["train"] == [f"{tmp_path / 'rows.jsonl'}: {remark}" for remark in remarks]


def test_columns_of_weights(tmp_path: Path) -> None:
    spans = [[0, 2, 0.5], [3, 4, 0]]
    rows = [{"prompt": "a", "response": "bcde", "w": 2, "s": own} for own in (spans, json.dumps(spans), [], None)]
    data = records(tmp_path, *rows, weight="w", span_weights="s", system="Add.")
    first, second, *others = data.examples("train")
    assert first.weight == 2 and first.weights == second.weights == [Weight(2, 0.5, (0, 2)), Weight(2, 0, (3, 4))]
    assert all(not example.weights for example in others) and not data.unread["train"]
    (tmp_path / "rows.csv").write_text('prompt,response,w,s\na,bcde,0.5,"[[0, 2, 3]]"\na,b,2,\n')
    (tmp_path / "val.csv").write_text("prompt,response\na,b\n")
    data.train, data.val = str(tmp_path / "rows.csv"), str(tmp_path / "val.csv")
    assert [(example.weight, example.weights) for example in data.examples("train")] == [(0.5, [Weight(2, 3, (0, 2))]), (2, [])]
    assert [(example.weight, list(example.weights)) for example in data.examples("val")] == [(1, [])]
    (example,) = records(tmp_path, {"messages": TURNS, "w": 0.25}, messages="messages", weight="w").examples("train")
    assert example.weight == 0.25


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"w": None}, "rows.jsonl: row 1: `w` must be a finite number of at least 0 that float32 can hold, got None; fill it in, or remove the row."),
        ({"w": "heavy"}, "rows.jsonl: row 1: `w` must be a finite number of at least 0 that float32 can hold, got 'heavy';"),
        ({"w": -1}, "rows.jsonl: row 1: `w` must be a finite number of at least 0 that float32 can hold, got -1;"),
        ({"w": float("nan")}, "rows.jsonl: row 1: `w` must be a finite number of at least 0 that float32 can hold, got nan;"),
        ({"w": 1e60}, "rows.jsonl: row 1: `w` must be a finite number of at least 0 that float32 can hold, got 1e+60;"),
        ({}, "rows.jsonl: column `w` is missing; the file has `prompt`, `response`, `s`; correct `data.weight` or `data.span_weights`, or leave it out."),
        ({"w": 1, "s": [[0, 2, 1]]}, "rows.jsonl: row 1: `s` must name spans within the 1 characters of the text, start < end, got [0, 2);"),
        ({"w": 1, "s": [[0.5, 1, 1]]}, "rows.jsonl: row 1: `s` must name spans within the 1 characters of the text, start < end, got [0.5, 1.0);"),
        ({"w": 1, "s": [0, 1]}, "rows.jsonl: row 1: `s` must be a list of [start, end, weight], with start and end in characters, got [0, 1];"),
        ({"w": 1, "s": "[[0, 1"}, "rows.jsonl: row 1: `s` must be a list of [start, end, weight], with start and end in characters, got '[[0, 1';"),
        ({"w": 1, "s": [[0, 1, -1]]}, "rows.jsonl: row 1: `s` must be a finite number of at least 0 that float32 can hold, got -1;"),
    ],
)
def test_a_bad_weight_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        records(tmp_path, {"prompt": "a", "response": "b", "s": None, **row}, weight="w", span_weights="s").examples("train")


def test_spans_of_conversations_belong_to_their_turns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data.span_weights` is for prompts and responses, got 's' beside `data.messages`; give a turn `weights`"):
        records(tmp_path, {"messages": TURNS, "s": []}, messages="messages", span_weights="s")


def test_a_split_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data.test` is missing"):
        records(tmp_path, {"prompt": "a", "response": "b"}).examples("test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "question,answer\na,b\n", "column `prompt` is missing; the file has `question`, `answer`; say which with `--data.prompt`."),
        (
            "a.json",
            '{"version": "1.0", "data": [{"prompt": "a", "response": "b"}]}',
            "is one object, whose `data` holds the rows; write that list itself, or one of its objects a line.",
        ),
        (
            "a.json",
            '{"chat": [{"role": "user", "content": "a"}]}',
            "column `prompt` is missing; the file has `chat`; say which with `--data.prompt`.",
        ),
        ("a.jsonl", '{"prompt": "a", "answer": "b"}\n', "column `response` is missing; the file has `prompt`, `answer`; say which with `--data.response`."),
    ],
)
def test_a_missing_column_names_its_option(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as refused:
        Records("no-tokenizer", train=str(tmp_path / name)).examples("train")
    assert str(refused.value) == f"{tmp_path / name}: {message}"


def test_rows_that_splits_share_are_counted(tmp_path: Path) -> None:
    def write(name: str, *numbers: int) -> str:
        (tmp_path / name).write_text("".join(json.dumps({"prompt": f"{number}?", "response": str(number)}) + "\n" for number in numbers))
        return str(tmp_path / name)

    data = Records(None, train=write("train.jsonl", *range(6), 1), val=write("val.jsonl", 1, 7, 8), test=write("test.jsonl", 0, 5, 8))
    data.kept = {split: data.examples(split) for split in ("train", "val")}
    assert data.shared_rows() == [
        "train shares 2 of its 7 rows with val: the model is scored on rows that it was trained on; " + WAY_OUT,
        "train shares 2 of its 7 rows with test: the model is scored on rows that it was trained on; " + WAY_OUT,
        "val shares 1 of its 3 rows with test: what `val/nll` chooses is then partly chosen by the test rows; " + WAY_OUT,
    ]
    data.overlap = "drop"
    assert [len(data.examples(split)) for split in ("train", "val", "test")] == [3, 2, 3]
    assert data.counts["train"] == {"also in val": 2, "also in test": 2} and data.counts["val"] == {"also in test": 1}
    data.overlap, data.val, data.test = "keep", write("val.jsonl", 9), "nowhere.jsonl"
    data.kept["val"] = data.examples("val")
    assert data.shared_rows() == []


def test_several_files_shards_and_patterns(tmp_path: Path) -> None:
    for number in range(2):
        datasets.Dataset.from_list([{"prompt": "a", "response": str(number)}]).to_parquet(tmp_path / f"train-0000{number}-of-00003.parquet")
    (tmp_path / "more.csv").write_text("prompt;response;id\na;2;7\n")
    data = Records("no-tokenizer", train=[str(tmp_path / "train-*.parquet"), str(tmp_path / "more.csv")])
    assert [example.meta["where"].removeprefix(f"{tmp_path}/") for example in data.examples("train")] == [
        "train-00000-of-00003.parquet: row 1",
        "train-00001-of-00003.parquet: row 1",
        "more.csv: row 1",
    ]
    assert data.unread["train"] == [
        f"{tmp_path}/train-*-of-00003.parquet: 2 of its 3 shards are read; give the pattern for all that are there.",
        f"{tmp_path}/more.csv: these columns are not read: `id`; join into `prompt` what the model should see (or give `data.prompt` a list, [prompt, ...]).",
    ]
    for train, message in (
        (str(tmp_path / "*.txt"), "`data.train`: no file matches "),
        ([], "`data.train` is missing"),
        ([str(tmp_path / "m*"), str(tmp_path / "more.csv")], "`data.train` names .*more.csv more than once"),
    ):
        data.train = train
        with pytest.raises(ValueError, match=message):
            data.examples("train")


def test_a_share_of_the_training_rows_validates(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number % 40}?", "response": str(number)} for number in range(80)]
    data = records(tmp_path, *rows, validation=0.3)
    train, val = ([example.prompt[-1]["content"] for example in data.examples(split)] for split in ("train", "val"))
    assert data.has_validation and len(train) + len(val) == 80 and not set(train) & set(val) and 8 <= len(val) <= 40
    assert data.counts["train"]["validate"] == len(val)
    more = records(tmp_path, *rows, {"prompt": "new", "response": "0"}, validation=0.3)
    assert [example.prompt[-1]["content"] for example in more.examples("val") if example.prompt[-1]["content"] != "new"] == val
    with pytest.raises(ValueError, match="`data.validation` is 0.3 beside `data.val`"):
        records(tmp_path, *rows, validation=0.3, val="val.jsonl")
    with pytest.raises(ValueError, match=r"`data.validation` must lie in \[0, 1\), got 1.0"):
        records(tmp_path, *rows, validation=1.0)


def test_columns_of_prompt_system_answer_and_group(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "3 4", "output": "So 7.", "sys": "Short.", "gold": 7, "kind": "sums"},
        {"instruction": "Name two.", "input": "", "output": "a b", "sys": None, "gold": ["a b", "b a"], "kind": "names"},
    ]
    options: dict[str, Any] = {"prompt": ["instruction", "input"], "response": "output", "answer": "gold", "group": "kind", "system_column": "sys"}
    data = records(tmp_path, *rows, **options, system="Long.")
    data.test = data.train
    first, second = data.examples("test")
    assert [turn["content"] for turn in first.prompt] == ["Short.", "Add.\n\n3 4"] and [turn["content"] for turn in second.prompt] == ["Long.", "Name two."]
    metric = data.metric()
    metric.update(["7", "b"], [first, second])
    assert metric.compute() == {"score": 0.5, "score/sums": 1, "score/names": 0} and metric.name == "ExactMatch"
    assert metric.judge("b a", second)["group"] == "names"
    data.examples("train")
    assert not data.unread["train"]
    (tmp_path / "train.csv").write_text("instruction,input,output,sys,gold\nAdd.,,7,,\n")
    data.train = str(tmp_path / "train.csv")
    assert data.examples("train")[0].meta == {"where": f"{data.train}: row 1", "answer": "7"}
    data.test = data.train
    with pytest.raises(ValueError, match="train.csv: column `kind` is missing; .*; say which with `--data.group`"):
        data.examples("test")
    options |= {"metric": NumericMatch}
    data = records(tmp_path, *rows, **options)
    data.test = data.train
    with pytest.raises(ValueError, match=r"row 2: `answer` must be a number.*\(`data.metric` reads as `answer` the column `gold`.\)"):
        data.examples("test")
    turns = [{"from": "system", "value": "Own."}, {"from": "human", "value": "one"}, {"from": "gpt", "value": "1"}]
    (example,) = records(tmp_path, {"conversations": turns}, messages="conversations").examples("train")
    assert [turn["role"] for turn in example.messages] == ["system", "user", "assistant"] and example.meta["answer"] == "1"
    with pytest.raises(ValueError, match="row 1 has a system turn in `conversations` and another in `sys`; leave one out"):
        records(tmp_path, {"conversations": turns, "sys": "Short."}, messages="conversations", system_column="sys").examples("train")


def test_too_many_groups(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "id": number} for number in range(101)]
    with pytest.raises(ValueError, match="`data.group`: `id` has 101 values, more than 100 groups; name a column with fewer"):
        records(tmp_path, *rows, group="id").examples("train")


def test_options_on_the_command_line() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DomainDataModule, "data")
    words = ["--data=Records", "--data.train=[a.csv, b.csv]", "--data.prompt=[q, context]", "--data.metric=Choice", "--data.metric.letters=ABC"]
    data = parser.instantiate(parser.parse_args([*words, "--data.group=kind"])).data
    assert (data.train, data.prompt, data.metric().whole.letters) == (["a.csv", "b.csv"], ["q", "context"], "ABC")
    config = parser.parse_args(["--data=Records", "--data.train=data/*.csv"])
    assert parser.instantiate(parser.parse_string(parser.dump(config))).data.train == "data/*.csv"
    assert isinstance(parser.instantiate(config).data.metric(), ExactMatch)
