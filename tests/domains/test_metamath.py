import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from lit_talr.data.example import Split
from lit_talr.domains import MetaMathQA
from tests.helpers.math_rows import TYPES, gsm8k_row, metamath_row, write_metamath, write_rows

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def metamath(folder: Path, changed: dict[str, Any] | None = None, **options: Any) -> MetaMathQA:
    _, rows = write_metamath(folder, **(changed or {}))
    return MetaMathQA("no-tokenizer", train=rows, **{"validation": 0.3, "test_share": 0.3, **options})


def asked(data: MetaMathQA, split: Split) -> list[str]:
    return [example.messages[0]["content"].partition("\n\n")[0] for example in data.examples(split)]


def test_cot_learns_the_response_and_label_its_last_line(tmp_path: Path) -> None:
    by_target = {target: metamath(tmp_path, target=target).examples("train")[0] for target in ("cot", "label")}
    response = by_target["cot"].messages[1]["content"]
    assert by_target["cot"].messages[0]["content"].startswith("Wording 0: what is ")
    assert response.startswith("They are ") and by_target["label"].messages[1]["content"] == response.rpartition("\n")[2]
    assert by_target["label"].meta == by_target["cot"].meta
    assert by_target["cot"].meta["type"] == "GSM_AnsAug" and by_target["cot"].meta["category"] == "GSM"


def test_all_wordings_of_a_question_are_on_one_side(tmp_path: Path) -> None:
    sides, data = defaultdict(set), metamath(tmp_path)
    for split in SPLITS:
        for query in asked(data, split):
            sides[query.partition(": ")[2]].add(split)
    assert len(sides) == 24 and all(len(found) == 1 for found in sides.values())
    assert {split for found in sides.values() for split in found} == set(SPLITS)
    assert sum(len(data.examples(split)) for split in SPLITS) == 24 * len(TYPES)


def test_the_split_does_not_depend_on_the_other_rows_nor_on_the_other_share(tmp_path: Path) -> None:
    whole, fewer, other = metamath(tmp_path), metamath(tmp_path, max_rows=40), metamath(tmp_path, validation=0.1)
    assert set(asked(fewer, "val")) <= set(asked(whole, "val"))
    assert asked(other, "test") == asked(whole, "test")
    assert asked(metamath(tmp_path, split_seed=1), "test") != asked(whole, "test")


def test_what_is_learned_is_scored_right(tmp_path: Path) -> None:
    for target in ("cot", "label"):
        data = metamath(tmp_path, target=target)
        examples, metric = data.examples("train"), data.metric()
        metric.update([example.messages[-1]["content"] for example in examples], examples)
        assert {name: value for name, value in metric.compute().items() if "accuracy/" in name} == {"accuracy/GSM": 1, "accuracy/MATH": 1}


def test_only_the_types_that_are_asked_for(tmp_path: Path) -> None:
    data = metamath(tmp_path, types=["MATH_SV"])
    examples = data.examples("train")
    assert {example.meta["type"] for example in examples} == {"MATH_SV"}
    assert data.counts["train"]["of another type"] == 3 * len(examples)


@pytest.mark.parametrize("column", ["question", "problem"])
def test_questions_of_a_test_file_are_left_out(tmp_path: Path, column: str) -> None:
    known = [{column: metamath_row(number)["original_question"].upper().replace(" ", "\n ")} for number in range(6)]
    data = metamath(tmp_path, exclude=[write_rows(tmp_path / "known.jsonl", known)])
    left = [query for split in SPLITS for query in asked(data, split)]
    assert len(left) == 18 * len(TYPES) and not any(f"what is {number} times" in query for number in range(6) for query in left)
    assert sum(data.counts[split]["original question excluded"] for split in SPLITS) == 6 * len(TYPES)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"query": " "}, "without a question"),
        ({"response": "Who knows?"}, "without a final answer"),
        ({"response": "The answer is: "}, "without a final answer"),
        ({"response": "The answer is: ."}, "answer not found in its own response"),
    ],
)
def test_blemishes_of_the_published_file_are_counted(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    data = metamath(tmp_path, changed)
    assert sum(len(data.examples(split)) for split in SPLITS) == 24 * len(TYPES) - 1
    assert sum(data.counts[split][reason] for split in SPLITS) == 1


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"It is \boxed{7}. The answer is: 5", "5"),
        (r"It is \boxed{3}. The answer is: \boxed{4}", "4"),
        ("The answer is: 5. That is right", "5"),
        ("#### 5\nThe answer is: 6", "6"),
        ("The answer is: 18\\text{ cm}", "18\\text{ cm}"),
        ("The answer is: 12 = 3 * 4", "12 = 3 * 4"),
        (r"It is \boxed{7}, so the answer is 5", "7"),
    ],
)
@pytest.mark.parametrize("target", ["cot", "label"])
def test_the_answer_of_a_row_is_read_as_answers_are(tmp_path: Path, response: str, answer: str, target: str) -> None:
    data = metamath(tmp_path, {"response": response}, target=target)
    (example,) = (example for split in SPLITS for example in data.examples(split) if example.meta["where"].endswith("row 3"))
    assert example.meta["answer"] == answer
    assert data.metric().judge(example.messages[-1]["content"], example)["correct"]


def test_a_file_of_rows_with_other_answers_in_them_says_so(tmp_path: Path) -> None:
    rows = [metamath_row(number) | {"response": "The answer is: ."} for number in range(9)]
    data = MetaMathQA("x", train=write_rows(tmp_path / "rows.jsonl", rows), validation=0.3, test_share=0.3)
    assert [len(data.examples(split)) for split in SPLITS] == [0] * 3
    assert sum(data.counts[split]["answer not found in its own response"] for split in SPLITS) == 9


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"type": "GSM_SVV"}, "metamath.jsonl: row 3: `type` must be one of GSM_AnsAug, .*, got 'GSM_SVV'; correct or remove the row"),
        ({"query": None}, "metamath.jsonl: row 3: `query` must be a text, got None; fill it in or remove the row"),
        ({"original_question": None}, "metamath.jsonl: row 3: `original_question` must be a text, got None"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    data = metamath(tmp_path, changed)
    with pytest.raises(ValueError, match=message):
        [data.examples(split) for split in SPLITS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 1}, r"`test_share` must lie in \(0, 1\), got 1"),
        ({"validation": 0.5, "test_share": 0.5}, "`validation` and `test_share` must leave questions for training, got 0.5 and 0.5"),
        ({"types": []}, "`types` must be some of GSM_AnsAug, .*, got none"),
        ({"types": ["GSM_X"]}, "`types` must be some of GSM_AnsAug, .*, got GSM_X"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaMathQA("x", **options)


def test_a_file_to_exclude_must_have_questions(tmp_path: Path) -> None:
    data = metamath(tmp_path, exclude=[write_rows(tmp_path / "other.jsonl", [{"prompt": "?"}])])
    with pytest.raises(ValueError, match="`exclude`: .*other.jsonl has neither a column `question` nor `problem`; give a file"):
        data.examples("train")


@pytest.mark.skipif("LIT_TALR_DATA" not in os.environ, reason="needs the folder LIT_TALR_DATA")
def test_the_real_test_files_can_be_excluded(tmp_path: Path) -> None:
    folder = Path(os.environ["LIT_TALR_DATA"])
    files = [str(folder / "gsm8k" / "test.jsonl.gz"), str(folder / "math" / "math500_test.jsonl.gz")]
    row = metamath_row(1) | {"original_question": gsm8k_row(1)["question"]}
    known = metamath_row(2) | {"original_question": "Janet\u2019s ducks lay"}
    data = MetaMathQA("x", train=write_rows(tmp_path / "rows.jsonl", [row, known]), exclude=files, validation=0.3, test_share=0.3)
    assert sum(len(data.examples(split)) for split in SPLITS) == 2
