import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lit_talr.report.items import KEY, answers_of, average, mean_score, read_items, run_answers, suite_means
from lit_talr.report.statistics import mean_interval
from lit_talr.report.transitions import item_values
from lit_talr.tasks.base import item_rows
from lit_talr.utils.files import write_json_lines
from tests.report.synthetic import write_answers


def test_the_mean_is_over_suites_of_each_suites_mean(tmp_path: Path) -> None:
    write_answers(tmp_path, "general-test", [1, 1, 0, 1, 1], ["add", "sort"])  # add: 1, 0, 1; sort: 1, 1
    items = read_items(tmp_path / "answers" / "general-test.jsonl")
    assert items is not None and suite_means(items) == {"add": 2 / 3, "sort": 1} and mean_score(items) == pytest.approx((2 / 3 + 1) / 2)
    assert read_items(tmp_path / "none.jsonl") is None


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    rows = [{"suite": suite, "id": index, "correct": index % 3 == 0} for suite in "ab" for index in range(11)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    one, two = (read_items(tmp_path / name) for name in ("one.jsonl", "two.jsonl"))
    assert one is not None and two is not None and one.equals(two) and answers_of(one).interval() == answers_of(two).interval()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 0, "correct": true}\n{"id": 1, "corr', "answers.jsonl is not a whole file of answers"),
        ('{"id": 0}\n', "not a whole file"),
        ('{"id": 0, "correct": 0.5}\n', "not a whole file"),
        ("[]\n", "not a whole file"),
        ("", "is empty, or has an item twice"),
        ('{"id": 0, "correct": true}\n' * 2, "is empty, or has an item twice"),
    ],
)
def test_what_is_no_whole_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "answers.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_items(tmp_path / "answers.jsonl")


def test_a_suite_that_does_not_count_in_the_mean_is_left_out(tmp_path: Path) -> None:
    rows = [{"suite": suite, "id": index, "correct": suite != "a", "counts": suite != "own"} for suite in ("a", "own", "z") for index in range(4)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read_items(tmp_path / "all.jsonl")
    assert items is not None and suite_means(items) == {"a": 0, "z": 1} and mean_score(items) == 0.5
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if not row["counts"]))
    assert read_items(tmp_path / "own.jsonl") is None


def test_what_unicode_takes_for_the_end_of_a_line_is_none(tmp_path: Path) -> None:
    rows = [{"id": 0, "text": "one\u2028two\x85three", "correct": True, "lenient": True}]
    write_json_lines(tmp_path / "answers.jsonl", rows)
    items = read_items(tmp_path / "answers.jsonl")
    assert items is not None and mean_score(items) == 1 and suite_means(items, "lenient") == {"": 1.0}


def test_only_answers_to_the_same_items_are_averaged_or_compared() -> None:
    first, second, other = (
        answers_of(pd.DataFrame({"suite": "", "id": ["0", "1"], "truth": ["7", truth], "correct": correct, "chance": 0.0}))
        for correct, truth in (([1, 0], "7"), ([1, 1], "7"), ([1, 0], "8"))  # the last has the same numbers, another truth
    )
    both = average([first, second])
    assert both is not None and both.values.tolist() == [1, 0.5]
    difference = first.minus(both)
    assert difference is not None and difference.values.tolist() == [0, -0.5] and difference.least == -1
    assert average([first, None]) is None and average([first, other]) is None and average([]) is None
    assert first.minus(other) is None and first.minus(None) is None


def test_runs_with_the_same_items_share_one_table_of_keys() -> None:
    truths = {"one": ["7", "8"], "two": ["7", "8"], "other": ["7", "9"]}
    rows = [(name, "domain", "", str(i), truth, i == 0, 0.0) for i in (0, 1) for name, both in truths.items() for truth in [both[i]]]  # runs lie between others
    answers = run_answers(pd.DataFrame(rows, columns=["name", "score", *KEY, "correct", "chance"]))
    one, two, other = (answers[name, "domain"] for name in truths)
    assert one.keys is two.keys and one.has_items_of(two) and not one.has_items_of(other)
    assert other.keys["truth"].tolist() == truths["other"] and other.values.tolist() == [1, 0]


def test_chance_is_that_of_the_row_or_none_for_an_answer_that_the_model_writes(tmp_path: Path) -> None:
    samples = {"task": [{"filter": "none", "acc": 1, "doc_id": 0, "prompt_hash": "h", "target": 2, "resps": [[(-1.0, False)]] * 4}]}
    (row,) = item_rows("mmlu", "acc,none", samples)
    assert row["chance"] == 0.25
    (mutual,) = item_rows("mmlu", "acc,none", {"task": [{**samples["task"][0], "acc_mutual_info": 1, "resps": [[(-1.0, False)]] * 8}]})
    (written,) = item_rows("gsm8k", "acc,none", {"task": [{**samples["task"][0], "resps": [["7"]]}]})
    assert (mutual["chance"], written["chance"]) == (0.25, 0.0)
    early = {key: value for key, value in row.items() if key != "chance"}
    rows = [row, {"id": 1, "correct": True, "extracted": "7"}, {**early, "id": 2}]
    write_json_lines(tmp_path / "answers.jsonl", rows)
    items = read_items(tmp_path / "answers.jsonl")
    assert items is not None and items["chance"].fillna(-1).tolist() == [0.25, 0.0, -1] and answers_of(items).odds is None
    odds = answers_of(items[:2]).odds
    assert odds is not None and odds.tolist() == pytest.approx([1 / 3, 0])


def test_an_item_under_several_wordings_is_one_item(tmp_path: Path) -> None:
    right = {"a": "1101", "b/x": "110", "b/y": "010"}
    rows = [{"suite": suite, "id": index, "truth": "7", "correct": each == "1"} for suite, line in right.items() for index, each in enumerate(line)]
    write_json_lines(tmp_path / "answers.jsonl", rows)
    items = read_items(tmp_path / "answers.jsonl")
    assert items is not None and suite_means(items) == {"a": 0.75, "b": 0.5} and mean_score(items) == 0.625
    answers = answers_of(items)
    values, groups = answers.by_item(answers.values)
    assert values.tolist() == [1, 1, 0, 1, 0.5, 1, 0] and groups.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert answers.interval() == mean_interval(values, groups, 0.0)
    difference = answers.minus(answers)
    assert difference is not None and difference.by_item(difference.values)[0].tolist() == [0] * 7
    # Between two models, a wording that is lost and one that is gained do not cancel: both have changed.
    before, after = (answers._replace(values=np.array([1, 1, 0, 1, *line], float)) for line in ((1, 1, 0, 0, 1, 0), (0, 1, 0, 1, 1, 0)))
    changes = {kind: before.by_item(each)[0].tolist() for kind, each in item_values([(before, after)]).items()}
    assert changes["lost"] == changes["gained"] == [0, 0, 0, 0, 0.5, 0, 0]
