"""The guide chooses by validation."""

import json
from math import erf
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from lit_talr.sweep.guide import check_comparable, item_losses, probability_within
from lit_talr.sweep.points import Point
from lit_talr.sweep.processes import Processes
from lit_talr.sweep.runs import Runs
from tests.helpers.scores import write_values
from tests.sweep.stub import COMMON, calls, fails, record, words, write_space


@pytest.mark.slow
def test_the_guide_tests_the_best_within_the_budget_and_nothing_else(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {
        "standard-1e-2-s0": [0.9, 0.2],
        "standard-1e-2-s1": [0.9, 0.2],
        "talr-1e-3-s0": [0.8, 0.03],
        "talr-1e-3-s1": [0.6, 0.0],
        "talr-1e-2-s0": [0.9, 0.0],
    }
    (stub / "scores.json").write_text(json.dumps(scores))
    (stub / "fail-fit-talr-1e-2-s1").touch()
    error = fails(capsys, *words(tmp_path), "--budget", "general_drop=0.02")
    assert "1 trial(s) failed, and their settings were left out: talr-1e-2-s1." in error
    found = record(tmp_path, "", "guide.json")
    assert found["chosen"]["trials"] == ["talr-1e-3-s0", "talr-1e-3-s1"]
    assert found["chosen"]["val/score"] == pytest.approx(0.7) and found["chosen"]["general/drop"] == pytest.approx(0.015)
    assert {name for name in calls(stub) if name.startswith("test")} == {"test base", "test talr-1e-3-s0", "test talr-1e-3-s1"}
    # One of three items was lost; with one more lost and one gained, 1 of 5: mean 1/5, variance 3/5 - 1/25.
    assert found["test"]["P(drop <= budget)"] == pytest.approx(normal((0.02 - 0.2) / (0.56 / 5) ** 0.5)) and found["test"]["general/drop"] == pytest.approx(
        1 / 3
    )
    assert "--trainer.callbacks+=GeneralBudget --trainer.callbacks.general_drop=0.02" in record(tmp_path, "talr-1e-3-s0")["commands"][0]


@pytest.mark.slow
def test_the_guide_asked_again_does_nothing_anew(tmp_path: Path, stub: Path) -> None:
    options = [*words(tmp_path, keep=False), "--budget", "general_drop=0.05"]
    main(["sweep", *options])
    first, guide = calls(stub), record(tmp_path, "", "guide.json")
    assert not (tmp_path / "out" / guide["chosen"]["trials"][0] / "export").exists()
    main(["sweep", *options])
    assert calls(stub) == first and record(tmp_path, "", "guide.json") == guide


def test_the_guide_says_when_nothing_is_within_the_budget(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", *words(tmp_path, seeds=[0]), "--budget", "general_drop=0.005"])
    assert "No setting stays within a general/drop of 0.005; the closest is standard-1e-3 with 0.0100. None was tested." in capsys.readouterr().out
    assert not [name for name in calls(stub) if name.startswith("test")]


def test_the_guide_needs_general_suites(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMON, "--space", write_space(tmp_path), "--out", str(tmp_path / "out"), "--budget", "general_drop=0.02"]
    assert "`--budget` needs the general score of every trial" in fails(capsys, *words)


def write_answers(folder: Path, name: str, right: dict[str, list[bool]]) -> None:
    rows = [{"suite": suite, "id": index, "correct": correct} for suite, items in right.items() for index, correct in enumerate(items)]
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    (folder / "answers" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def normal(value: float) -> float:
    """The distribution function of the standard normal."""
    return (1 + erf(value / 2**0.5)) / 2


def test_the_probability_by_hand(tmp_path: Path) -> None:
    """Suite a loses one of its two items, b none of one."""
    write_answers(tmp_path, "general-base-test", {"a": [True, True], "b": [False]})
    write_answers(tmp_path, "general-test", {"a": [False, True], "b": [False]})
    lost = item_losses([tmp_path])
    assert lost == {"a": [1.0, 0.0], "b": [0.0]}
    # A third of a pair more is lost and gained in a, two thirds in b: means 1 / (8/3) and 0 in 8/3 and 7/3 items.
    variances = (1 + 2 / 3) / (8 / 3) - (3 / 8) ** 2, (4 / 3) / (7 / 3)
    error = (variances[0] / (8 / 3 - 1 / 3) + variances[1] / (7 / 3)) ** 0.5 / 2
    assert [probability_within(lost, budget) for budget in (0.0, 0.4)] == [pytest.approx(normal((budget - 3 / 16) / error)) for budget in (0.0, 0.4)]
    assert probability_within({"a": [0.0] * 500}, 0.02) > 0.999 > probability_within({"a": [0.0] * 5}, 0.02) > 0.5
    write_answers(tmp_path / "other", "general-base-test", {"a": [True, True], "b": [False]})
    write_answers(tmp_path / "other", "general-test", {"a": [True, True], "b": [True]})
    assert item_losses([tmp_path, tmp_path / "other"]) == {"a": [0.5, 0.0], "b": [-0.5]}
    write_answers(tmp_path / "wordings", "general-base-test", {"a/x": [True, True], "a/y": [True, False]})
    write_answers(tmp_path / "wordings", "general-test", {"a/x": [False, True], "a/y": [True, True]})
    assert item_losses([tmp_path / "wordings"]) == {"a": [0.5, -0.5]}
    write_answers(tmp_path / "other", "general-test", {"a": [True, True]})
    with pytest.raises(ValueError, match="must be of the same items"):
        item_losses([tmp_path / "other"])


@pytest.mark.parametrize(
    ("belongs", "kind"), [({"arithmetic": "bf16 autocast"}, "arithmetic"), ({"base": "other"}, "base model"), ({"items": "others"}, "items")]
)
def test_it_does_not_choose_between_what_cannot_be_compared(tmp_path: Path, belongs: dict[str, str], kind: str) -> None:
    points = {name: Point(name, None, name, 1e-3, 0, "base", [["fit"]], name) for name in ("standard", "talr")}
    runs = Runs(tmp_path, points, False, False, True, Processes(1), "code")
    for name, more in (("standard", {}), ("talr", belongs)):
        write_values(tmp_path / name, {"fit": {"val/score": 0.5}}, **{"items": "i", **more})
        (tmp_path / name / "trial.json").write_text("{}")
        (tmp_path / name / "config.yaml").write_text("callbacks: []")
    with pytest.raises(ValueError, match=f"`--budget` cannot choose between standard and talr: the {kind} of their val/score differ"):
        check_comparable(runs)
