"""Runs of another base model, other items, rows, steps or arithmetic stand apart, and are not subtracted."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lit_talr.report.tables import collect
from tests.helpers.scores import read_values, write_values
from tests.report.synthetic import write_run

POINT: dict[str, Any] = {"variant": "cot", "rate": 1e-3, "seed": 0}


def write(folder: Path, name: str, right: list[int], base: str = "lab", items: str = "one", arithmetic: str = "fp32", rows: Any = None, **more: Any) -> None:
    run = write_run(folder / name, [1, 0, 1, 1], right, None, {}, ("sums",), **{**POINT, "remedy": name, **more})
    belongs = {"base": base, "weights": base, "items": items, "arithmetic": arithmetic, "num_items": 4}
    write_values(run, {"fit": {"val/nll": 1.0}, "test": read_values(run, "test")}, **belongs)
    if rows is not None:
        (run / "provenance.json").write_text(json.dumps({"fits": [{"command": "lit-talr fit", "rows": rows}]}))


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    found = collect([folder])
    return found.results.set_index("name"), found.pairs.set_index(["reference", "point"]), dict(zip(found.notes["name"], found.notes["sentence"], strict=True))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two runs from the lab's base model, and that."""
    write(tmp_path, "base", [1, 1, 1, 1], rate=None, seed=None)
    write(tmp_path, "talr", [1, 0, 1, 1])
    write(tmp_path, "standard", [1, 0, 0, 1])
    return tmp_path


def test_a_foreign_run_is_not_subtracted_from_the_base_of_a_sweep(sweep: Path) -> None:
    write(sweep, "foreign", [1, 1, 0, 0], base="another0")
    results, pairs, notes = tables(sweep)
    assert results.loc["talr", "drop"] == 0.25 and pd.isna(results.loc["foreign", "drop"]) and pd.isna(results.loc["foreign", "drop_upper"])
    assert results.loc["foreign", "point"] == "cot foreign 1e-3 (base model another0)"
    assert "no base model is there to compare with: foreign began from base model another0, base from lab" in notes["foreign"]
    assert pairs.loc[("cot talr 1e-3", "cot foreign 1e-3 (base model another0)")].isna().all()
    assert pairs.loc[("cot talr 1e-3", "cot standard 1e-3"), "general"] == -0.25


def test_with_its_own_base_it_has_a_drop(sweep: Path) -> None:
    write(sweep, "foreign", [1, 1, 0, 0], base="another0")
    write(sweep, "other-base", [1, 1, 1, 0], base="another0", remedy="base", rate=None, seed=None)
    results, _, notes = tables(sweep)
    assert results.loc["foreign", "drop"] == pytest.approx(0.25) and "no base model" not in notes["foreign"]


def test_a_base_that_was_trained_itself_is_that_of_the_runs_that_began_with_it(sweep: Path) -> None:
    """The record of an exported model names the model that it came from; what counts is which weights a run began with."""
    for name, base in (("warm", "exported"), ("of-the-lab", "lab")):
        write(sweep, name, [1, 1, 0, 0], base=base)
    write(sweep, "exported-base", [1, 1, 1, 0], base="lab", remedy="base", rate=None, seed=None)
    write_values(sweep / "exported-base", {"test": read_values(sweep / "exported-base", "test")}, base="lab", weights="exported", items="one")
    results, _, _ = tables(sweep)
    assert results.loc["warm", "drop"] == pytest.approx(0.25) and results.loc["of-the-lab", "drop"] == pytest.approx(0.5)


def test_a_drop_that_the_run_itself_has_stays(sweep: Path) -> None:
    write(sweep, "foreign", [1, 1, 0, 0], base="another0")
    values = read_values(sweep / "foreign", "test")
    write_values(sweep / "foreign", {"test": {**values, "general/drop": 0.0}}, base="another0", items="one")
    assert tables(sweep)[0].loc["foreign", "drop"] == 0


@pytest.mark.parametrize(
    ("difference", "mark", "subtracts"),
    [
        ({"items": "two"}, "4 other items of test, 4 other items of general", False),
        ({"arithmetic": "bf16 autocast"}, "bf16 autocast", True),
        ({"rows": {"number": 64, "hash": "b"}}, "64 training rows, other training rows", True),
        ({"rows": {"number": 32, "hash": "b"}}, "other training rows", True),
    ],
)
def test_what_differs_is_marked_beside_the_point(tmp_path: Path, difference: dict[str, Any], mark: str, subtracts: bool) -> None:
    usual = {"rows": {"number": 32, "hash": "a"}}
    write(tmp_path, "base", [1, 1, 1, 1], rate=None, seed=None)
    write(tmp_path, "talr", [1, 0, 1, 1], **usual)
    write(tmp_path, "standard", [1, 0, 0, 1], **usual)
    write(tmp_path, "odd", [1, 0, 0, 0], **{**usual, **difference})
    results, pairs, notes = tables(tmp_path)
    point = f"cot odd 1e-3 ({mark})"
    assert results.loc["odd", "point"] == point and f"differs from most runs: {mark}" in notes["odd"]
    assert pd.isna(results.loc["odd", "drop"]) != subtracts and pd.isna(pairs.loc[("cot talr 1e-3", point), "general"]) != subtracts
    assert results.loc["talr", "point"] == "cot talr 1e-3"


def test_other_steps_are_marked(tmp_path: Path) -> None:
    for name, step in (("one", 96), ("two", 96), ("short", 48)):
        run = write_run(tmp_path / name, [1, 0], None, None, {"step": step, "val/nll": 1.0}, remedy=name, **POINT)
        assert run.is_dir()
    assert tables(tmp_path)[0].loc["short", "point"] == "cot short 1e-3 (48 steps)"
