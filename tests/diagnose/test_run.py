"""What is read from a run's folder, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_talr.curriculum.token_groups import write_table
from lit_talr.diagnose.run import read_facts
from tests.diagnose.runs import SETS, token_rows, write_run
from tests.helpers.scores import write_values


def test_the_facts_are_those_of_the_table(tmp_path: Path) -> None:
    facts = read_facts(write_run(tmp_path))
    assert (facts.epochs, facts.rate, facts.adapters, facts.visible, facts.drift) == (2, 0.002, False, None, None)
    assert facts.unseen._asdict() == {
        **{"num_tokens": 1000, "num_hard": 400, "num_still": 300, "hard_base_nll": 11.0, "still_base_nll": 13.0},
        **{"base_nll": 4.0, "nll": 2.0, "start_temperature": 4.8, "temperature": 2.5},
    }
    assert facts.trained == facts.unseen._replace(num_still=40)


def test_drift_and_visible_update_are_read_where_they_are(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_values(tmp_path, {"fit": {"update/visible": 0.25}})
    (tmp_path / "drift.jsonl").write_text('{"kl": 0.0, "epoch": 0}\n{"kl": 0.5, "epoch": 2}\n')
    facts = read_facts(tmp_path)
    assert (facts.visible, facts.drift) == (0.25, 0.5)
    (tmp_path / "drift.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"drift.jsonl is damaged"):
        read_facts(tmp_path)


def test_no_token_is_still_hard(tmp_path: Path) -> None:
    facts = read_facts(write_run(tmp_path, [row for name in SETS for row in token_rows(name, num_still=0)]))
    assert facts.unseen.still_base_nll is None and facts.unseen.share == 0


def both(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_run(folder, [row for name in SETS for row in token_rows(name, **changes)])


def without(**named: str) -> Callable[[Path], object]:
    rows = [row for name in SETS for row in token_rows(name)]
    return lambda folder: write_run(folder, [row for row in rows if any(row[key] != value for key, value in named.items())])


def write_damaged(folder: Path) -> None:
    (write_run(folder) / "token_probability.parquet").write_bytes(b"PAR1")


def write_earlier(folder: Path) -> None:
    write_run(folder, [{key: value for key, value in row.items() if key != "sequence_median"} for name in SETS for row in token_rows(name)])


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda folder: None, "is no folder; give the folder of a short Standard run"),
        (lambda folder: folder.mkdir(), "has no config.yaml, so it is no run; give the folder of"),
        (
            lambda folder: (write_run(folder) / "token_probability.parquet").unlink(),
            "has no token_probability.parquet; train with the callback TokenProbability",
        ),
        (lambda folder: (write_run(folder) / "config.yaml").write_text("a: b"), "has a config.yaml that is not one of `lit-talr fit`; give"),
        (without(set="held_out"), "held no training rows out, .* train with `--data.held_out 0.2`"),
        (lambda folder: write_run(folder, loss="TALR"), "was trained with the loss talr; the rule was found on Standard"),
        (lambda folder: write_run(folder, loss="TALR", adapter="{class_path: LoRA}"), "was trained with the loss lora-talr; "),
        (both(last=0), "has not finished an epoch; continue it"),
        (both(threshold=0.5), "was watched with `threshold: 0.5`, the rule was found with 0.2; leave"),
        (both(num_hard=30, num_still=20), r"has 30 unseen token\(s\) that the base finds hard, and 100 are needed; hold out at least 4 times as many rows"),
        (both(num_hard=0, num_still=0), r"has 0 unseen token\(s\) .* hold out more rows"),
        (write_damaged, "token_probability.parquet is damaged .*; restore it from a copy, or move it away"),
        (without(group="still_hard"), "lacks what `diagnose` reads .*; run the short run again with this version"),
        (write_earlier, "lacks what `diagnose` reads .*sequence_median.*; run the short run again"),
    ],
)
def test_it_is_refused_in_one_sentence(tmp_path: Path, write: Callable[[Path], object], sentence: str) -> None:
    write(tmp_path / "short")
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}.*{sentence}") as refusal:
        read_facts(tmp_path / "short")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("steps", "epochs"), [(20, 2), (19, 1), (10, 1)])
def test_a_part_of_an_epoch_does_not_count(tmp_path: Path, steps: int, epochs: int) -> None:
    write_run(tmp_path)
    write_values(tmp_path, {"fit": {"val/nll": 1.0}}, step=steps)
    (tmp_path / "provenance.json").write_text(json.dumps({"fits": [{"rows": {"number": 75, "hash": "h"}}]}))  # ten steps of up to 8
    assert read_facts(tmp_path).epochs == epochs
    write_values(tmp_path, {"fit": {"val/nll": 1.0}}, step=9)
    with pytest.raises(ValueError, match="has not finished an epoch"):
        read_facts(tmp_path)


def test_adapters_are_said(tmp_path: Path) -> None:
    assert read_facts(write_run(tmp_path, adapter="{class_path: LoRA}")).adapters


def test_the_run_around_an_export_is_named(tmp_path: Path) -> None:
    (write_run(tmp_path) / "export").mkdir()
    with pytest.raises(ValueError, match=rf"export has no config.yaml, so it is no run; did you mean {tmp_path}\?"):
        read_facts(tmp_path / "export")


def test_a_table_of_one_epoch_is_enough(tmp_path: Path) -> None:
    write_table(write_run(tmp_path) / "token_probability.parquet", [row for name in SETS for row in token_rows(name, last=1)])
    assert read_facts(tmp_path).epochs == 1
    assert json.loads(json.dumps(read_facts(tmp_path)))
