import json
import os
from pathlib import Path
from typing import Any

import pytest

from lit_talr.domains import MedCalc
from lit_talr.metrics import MedCalcAccuracy
from tests.helpers.medcalc_rows import medcalc_row, write_medcalc
from tests.helpers.tiny import save_tokenizer


def medcalc(folder: Path, changed: dict[str, Any] | None = None, **options: Any) -> MedCalc:
    _, train, _, test = write_medcalc(folder, **(changed or {}))
    return MedCalc("no-tokenizer", train=train, test=test, validation=0.3, **options)


def test_cot_learns_the_explanation_and_the_answer(tmp_path: Path) -> None:
    example = medcalc(tmp_path).examples("train")[0]
    row = medcalc_row(int(example.messages[1]["content"].split()[3]))
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]
    assert example.supervised == (2,)
    assert row["Patient Note"] in example.messages[1]["content"] and row["Question"] in example.messages[1]["content"]
    learned = json.loads(example.messages[2]["content"])
    assert learned == {"step_by_step_thinking": row["Ground Truth Explanation"], "answer": row["Ground Truth Answer"]}


def test_label_learns_the_answer_alone(tmp_path: Path) -> None:
    example = medcalc(tmp_path, target="label").examples("train")[0]
    assert json.loads(example.messages[2]["content"]).keys() == {"answer"}


def test_splits_are_disjoint_by_note_and_overlap_with_test_is_counted(tmp_path: Path) -> None:
    data = medcalc(tmp_path)
    notes = {split: {example.messages[1]["content"] for example in data.examples(split)} for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert not notes["train"] & notes["val"] and not notes["train"] & notes["test"] and not notes["val"] & notes["test"]
    assert sum(len(part) for part in notes.values()) == 24 + 5 - 1
    assert data.counts["train"]["note also in test"] + data.counts["val"]["note also in test"] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"Ground Truth Explanation": ""}, "train.parquet: row 3: `Ground Truth Explanation` must be a text that is not empty, got ''; .*`target: label`"),
        ({"Ground Truth Answer": " "}, "train.parquet: row 3: `Ground Truth Answer` must be a text that is not empty, got ' '"),
        ({"Patient Note": None}, "train.parquet: row 3: `Patient Note` must be a text that is not empty, got None"),
        ({"Calculator ID": "five"}, "train.parquet: row 3: `Calculator ID` must be a whole number, got 'five'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    data = medcalc(tmp_path, changed)
    with pytest.raises(ValueError, match=message):
        data.examples("train"), data.examples("val")


def test_braces_in_a_note_stay(tmp_path: Path) -> None:
    data = medcalc(tmp_path, {"Patient Note": "see {question} and {note}"})
    examples = [*data.examples("train"), *data.examples("val")]
    assert any("see {question} and {note}" in example.messages[1]["content"] for example in examples)


def test_a_truth_of_zero_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({**medcalc_row(3), "Ground Truth Answer": 0, "Calculator ID": 5}))
    _, _, _, test = write_medcalc(tmp_path)
    data = MedCalc("x", train=str(tmp_path / "rows.jsonl"), test=test)
    (example,) = [*data.examples("train"), *data.examples("val")]
    assert json.loads(example.messages[-1]["content"])["answer"] == "0"


@pytest.mark.skipif("LIT_TALR_DATA" not in os.environ, reason="needs the folder LIT_TALR_DATA")
def test_on_the_real_rows(tmp_path: Path) -> None:
    """The counts of the data's own README: 1,144 rows, of which 67 share a note with the 1,047 of the test set."""
    folder = Path(os.environ["LIT_TALR_DATA"]) / "medcalc"
    save_tokenizer(tmp_path, "qwen2")
    data = MedCalc(str(tmp_path), train=str(folder / "train_subset.parquet"), test=str(folder / "test_v1.0.parquet"))
    train, val, test = data.examples("train"), data.examples("val"), data.examples("test")
    assert len(train) + len(val) == 1077
    assert data.counts["train"]["note also in test"] + data.counts["val"]["note also in test"] == 67
    assert len(test) == 1047
    assert not {example.messages[1]["content"] for example in train} & {example.messages[1]["content"] for example in val}
    metric = MedCalcAccuracy()
    answered = [*train, *val]
    metric.update([example.messages[-1]["content"] for example in answered], answered)
    assert metric.compute()["score"] == 1.0  # what is learned is scored right
