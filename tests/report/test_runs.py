import json
import math
from pathlib import Path
from typing import Any

import pytest

from lit_talr.report.runs import LeftOutError, find, read_run, scientific
from tests.helpers.scores import RECORD
from tests.report.synthetic import write_config, write_run

TALR = {"class_path": "lit_talr.losses.TALR", "init_args": {"floor": 0.01}}
STANDARD = {"class_path": "lit_talr.losses.Standard"}


def test_runs_are_found_at_any_depth_once_and_not_inside_others(tmp_path: Path) -> None:
    for name in ("one", "deep/er/two", "one/export", "deep/.reference"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.json").write_text("{}")
    assert find([tmp_path, tmp_path / "one"]) == {"two": tmp_path / "deep/er/two", "one": tmp_path / "one"}


def test_names_that_two_runs_share_get_a_parents_too(tmp_path: Path) -> None:
    for name in ("a/x/run", "b/x/run", "b/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trial.json").write_text("{}")
    assert set(find([tmp_path])) == {"a/x/run", "b/x/run", "other"}


@pytest.mark.parametrize(("make", "message"), [(False, "nothing: no such folder"), (True, "nothing: holds no run; a run is a folder with trial.json")])
def test_no_runs_are_refused(tmp_path: Path, make: bool, message: str) -> None:
    if make:
        (tmp_path / "nothing" / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        find([tmp_path / "nothing"])


def test_a_sweeps_run_is_what_its_trial_says(tmp_path: Path) -> None:
    trial = {"variant": "cot", "remedy": "wise-ft", "source": "talr", "rate": 3e-4, "seed": 1, "alpha": 0.5, "of": "cot-talr", "base": "cot-base"}
    write_run(tmp_path / "run", [1, 0], **trial, commands=["lit-talr merge", "lit-talr test"], paper={"domain": 0.5, "general": 0.6})
    run = read_run(tmp_path / "run", "run")
    assert {name: getattr(run, name) for name in trial} == trial
    assert run.point == "cot wise-ft of talr 3e-4 alpha 0.5" and not run.trained
    assert run.command == "lit-talr merge\nlit-talr test" and (run.paper_domain, run.paper_general) == (0.5, 0.6)


@pytest.mark.parametrize(
    ("loss", "adapter", "remedy"),
    [
        (STANDARD, None, "standard"),
        (TALR, None, "talr"),
        ({"class_path": "L2", "init_args": {"coefficient": 1e-3, "loss": STANDARD}}, None, "l2"),
        ({"class_path": "L2", "init_args": {"coefficient": 1e-3, "loss": TALR}}, None, "l2-talr"),
        (STANDARD, {"class_path": "lit_talr.LoRA", "init_args": {"r": 8}}, "lora"),
        (TALR, {"class_path": "LoRA"}, "lora-talr"),
        (STANDARD, {"class_path": "OSF"}, "osf"),
    ],
)
def test_without_a_trial_the_configuration_says_what_it_is(tmp_path: Path, loss: dict[str, Any], adapter: dict[str, Any] | None, remedy: str) -> None:
    folder = write_run(tmp_path / "run", [1, 0], fit={"step": 3})
    write_config(folder, loss, adapter, target="label")
    (folder / "provenance.json").write_text(json.dumps({"fits": [{"command": "lit-talr fit"}, {"command": "lit-talr fit --ckpt_path last"}]}))
    run = read_run(folder, "run")
    assert (run.remedy, run.rate, run.seed, run.variant, run.trained) == (remedy, 3e-4, 7, "label", True)
    assert run.command == "lit-talr fit\nlit-talr fit --ckpt_path last"


def test_a_trial_goes_before_the_configuration(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [1, 0], fit={}, remedy="talr-floor-0.1")
    write_config(folder, TALR)
    run = read_run(folder, "run")
    assert (run.remedy, run.rate, run.variant) == ("talr-floor-0.1", 3e-4, None)


def test_what_was_tested_and_never_trained_is_a_base(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", [1, 0]), "run")
    assert run.remedy == "base" and not run.trained and run.point == "base"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, "no metrics.json"),
        ("metrics.json", '{"test": {"test/sc', "a metrics.json that cannot be read"),
        ("metrics.json", "[1]", "a metrics.json that cannot be read"),
        ("metrics.json", '{"fit": {}}', "no test/score in metrics.json"),
        ("metrics.json", json.dumps({"test": {"test/score": {"value": math.nan, **RECORD}}}), "no test/score in metrics.json"),
        ("metrics.json", '{"test": [0.5]}', "a metrics.json that cannot be read"),
        ("metrics.json", '{"test": {"test/score": 0.5}}', "a metrics.json that cannot be read"),
        ("metrics.json", json.dumps({"fit": {}, "test": {"test/score": {"value": 0.5, **RECORD}}}), "neither trial.json nor config.yaml"),
        ("config.yaml", "model: [", "a config.yaml that is not one of `lit-talr fit`"),
        ("config.yaml", "model: {}", "a config.yaml that is not one of `lit-talr fit`"),
        ("trial.json", '{"remedy": "talr"', "a trial.json that is not whole JSON"),
        ("trial.json", '{"remedy": 3}', "a trial.json whose `remedy` is not a text but 3"),
        ("trial.json", '{"remedy": "talr", "rate": "3e-4"}', "a trial.json whose `rate` is not a number but '3e-4'"),
    ],
)
def test_what_cannot_be_shown_is_left_out_with_a_sentence(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = write_run(tmp_path / "run", [1, 0])
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(LeftOutError, match=message):
        read_run(folder, "run")


@pytest.mark.parametrize(("rate", "text"), [(3e-4, "3e-4"), (1.5e-5, "1.5e-5"), (0.01, "1e-2"), (0.1 * 3e-3, "3e-4")])
def test_rates_are_written_as_people_do(rate: float, text: str) -> None:
    assert scientific(rate) == text
