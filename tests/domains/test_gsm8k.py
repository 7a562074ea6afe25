import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_talr.domains import GSM8K
from lit_talr.metrics.numeric_match import parse_number
from tests.helpers.math_rows import gsm8k_row, write_gsm8k


def gsm8k(folder: Path, changed: dict[str, Any] | None = None, **options: Any) -> GSM8K:
    _, train, _, test = write_gsm8k(folder, **(changed or {}))
    return GSM8K("no-tokenizer", train=train, test=test, **{"validation": 0.3, **options})


def test_cot_learns_the_reasoning_without_calculator_marks(tmp_path: Path) -> None:
    example = gsm8k(tmp_path).examples("test")[0]
    assert [message["role"] for message in example.messages] == ["user", "assistant"]
    assert example.messages[0]["content"].startswith(gsm8k_row(1000)["question"] + "\n\n")
    assert example.messages[1]["content"] == "The boxes hold 100*12=1200 eggs.\nOf these 1200-1000=200 are whole.\n#### 200"
    assert example.meta == {"where": f"{tmp_path / 'test.jsonl'}: row 1", "answer": "200"}


def test_the_marks_can_be_kept(tmp_path: Path) -> None:
    assert gsm8k(tmp_path, keep_calculator_marks=True).examples("test")[0].messages[1]["content"] == gsm8k_row(1000)["answer"]


def test_label_learns_the_number_alone(tmp_path: Path) -> None:
    answers = {example.messages[1]["content"] for example in gsm8k(tmp_path, target="label").examples("train")}
    assert "#### 1,199" in answers | {example.messages[1]["content"] for example in gsm8k(tmp_path, target="label").examples("val")}
    assert all(answer.startswith("#### ") and "\n" not in answer for answer in answers)


def test_what_is_learned_is_scored_right(tmp_path: Path) -> None:
    for target in ("cot", "label"):
        data = gsm8k(tmp_path, target=target)
        examples, metric = [*data.examples("train"), *data.examples("val")], data.metric()
        metric.update([example.messages[-1]["content"] for example in examples], examples)
        assert metric.compute() == {"score": 1, "strict": 1}


def test_validation_is_split_from_training_by_the_question_alone(tmp_path: Path) -> None:
    data, fewer = gsm8k(tmp_path), gsm8k(tmp_path, max_rows=12)
    train, val, few = ({example.messages[0]["content"] for example in part} for part in (data.examples("train"), data.examples("val"), fewer.examples("val")))
    assert len(train) + len(val) == 24 and not train & val
    assert few <= val and len(fewer.examples("train")) + len(few) == 12
    assert {example.messages[0]["content"] for example in gsm8k(tmp_path, split_seed=1).examples("val")} != val


@pytest.mark.parametrize("wording", [str, str.upper, lambda text: text.replace(" ", "\n ") + " "])
def test_a_question_of_the_test_set_is_left_out_and_counted(tmp_path: Path, wording: Callable[[str], str]) -> None:
    data = gsm8k(tmp_path, {"question": wording(gsm8k_row(1001)["question"])})
    assert len(data.examples("train")) + len(data.examples("val")) == 23
    assert data.counts["train"]["question also in test"] + data.counts["val"]["question also in test"] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": ""}, "train.jsonl.gz: row 3: `question` must be a text that is not empty, got ''; fill it in or remove the row"),
        ({"answer": None}, "train.jsonl.gz: row 3: `answer` must be a text that is not empty, got None"),
        ({"answer": "It is 7."}, "train.jsonl.gz: row 3: `answer` must end with `#### number`, got 'It is 7.'; correct or remove the row"),
        ({"answer": "So\n#### seven"}, "train.jsonl.gz: row 3: `answer` must end with `#### number`, got 'So\\\\n#### seven'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    data = gsm8k(tmp_path, changed)
    with pytest.raises(ValueError, match=message):
        data.examples("train"), data.examples("val")


@pytest.mark.skipif("LIT_TALR_DATA" not in os.environ, reason="needs the folder LIT_TALR_DATA")
@pytest.mark.slow
@pytest.mark.parametrize("target", ["cot", "label"])
def test_on_the_real_rows(target: str) -> None:
    folder = Path(os.environ["LIT_TALR_DATA"]) / "gsm8k"
    data = GSM8K("x", train=str(folder / "train.jsonl.gz"), test=str(folder / "test.jsonl.gz"), target=target)  # type: ignore[arg-type]
    train, val, test = data.examples("train"), data.examples("val"), data.examples("test")
    assert (len(train) + len(val), len(test)) == (7473, 1319)
    assert 300 < len(val) < 450
    for part in ([*train, *val], test):
        assert all(parse_number(example.meta["answer"]) is not None for example in part)
        assert not any("<<" in example.messages[-1]["content"] for example in part)
        metric = data.metric()
        metric.update([example.messages[-1]["content"] for example in part], part)
        assert metric.compute() == {"score": 1, "strict": 1}
        for wording in ("The answer is {}.", r"So it is \boxed{{{}}}.", "The answer is: {}"):
            metric.reset()
            metric.update([wording.format(example.meta["answer"]) for example in part], part)
            assert metric.compute()["score"] == 1
        metric.reset()
        metric.update([example.messages[-1]["content"].replace("#### ", "#### 1") for example in part], part)
        assert metric.compute()["score"] == 0
