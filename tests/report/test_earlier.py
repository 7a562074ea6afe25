"""Runs join those of an earlier report as if all were read together."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lit_talr.report import report
from lit_talr.report.tables import Tables, collect, read_tables, write_tables
from tests.helpers.params import first_is_fast
from tests.report.synthetic import write_run, write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(
        tmp_path_factory.mktemp("sweep"), ["standard", "talr"], rates=[1e-4, 1e-3], seeds=[0, 1], variants=["cot"], alphas=[], epochs=2, items=12
    )


def stored(folder: Path, tables: Tables) -> Tables:
    """The tables as files keep them."""
    write_tables(folder, tables._asdict())
    return read_tables(folder)


def assert_same(first: Tables, second: Tables) -> None:
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("early", first_is_fast(["cot-base", "cot-talr-1e-3-s0"], ["cot-standard-1e-4-s1", "cot-talr-1e-3-s1"]))
def test_two_parts_are_the_whole(sweep: Path, tmp_path: Path, early: list[str]) -> None:
    """With the base model in either part."""
    for folder in sweep.iterdir():
        if folder.is_dir():
            shutil.copytree(folder, tmp_path / ("early" if folder.name in early else "late") / folder.name)
    whole = stored(tmp_path / "whole", collect([sweep]))
    first = stored(tmp_path / "first", collect([tmp_path / "early"]))
    joined = stored(tmp_path / "joined", collect([tmp_path / "late"], first))
    if "cot-base" in early:
        assert_same(joined, whole)
    else:  # its drops were not known when the first part was read
        assert_same(stored(tmp_path / "again", collect([tmp_path / "early"], joined)), whole)


def test_a_run_takes_the_place_of_the_earlier_one_of_its_name(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", [1, 0], remedy="talr", key="k", code="old")
    write_run(tmp_path / "runs" / "b", [1, 1], remedy="standard", key="l", code="old")
    report([tmp_path / "runs"], tmp_path / "store")
    shutil.rmtree(tmp_path / "runs" / "b")
    write_run(tmp_path / "runs" / "a", [0, 0], remedy="talr", key="k", code="new")
    report([tmp_path / "runs"], tmp_path / "store", tmp_path / "store")
    results = read_tables(tmp_path / "store").results.set_index("name")
    assert results["domain"].to_dict() == {"b": 1, "a": 0} and results["code"].to_dict() == {"b": "old", "a": "new"} and results["key"]["a"] == "k"
    assert sorted(path.suffix for path in (tmp_path / "store").iterdir()) == [".parquet"] * 7


def test_marks_are_made_anew(tmp_path: Path) -> None:
    """The first run differs from none until most others differ from it."""
    for name, steps in (("a", 7), ("b", 8), ("c", 8)):
        write_run(tmp_path / name / "runs" / name, [1, 0], fit={"val/nll": 1.0, "step": steps}, remedy=name)
    report([tmp_path / "a"], tmp_path / "store")
    assert read_tables(tmp_path / "store").results["point"].tolist() == ["a"]
    report([tmp_path / "b", tmp_path / "c"], tmp_path / "store", tmp_path / "store")
    assert read_tables(tmp_path / "store").results["point"].tolist() == ["a (7 steps)", "b", "c"]
