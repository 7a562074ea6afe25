"""What a run's folder may hold as it starts; a path that is no model is answered with the folder that is meant."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_talr.cli.run_folder import check_others, check_place
from lit_talr.curriculum import curriculum
from lit_talr.diagnose.run import read_facts
from lit_talr.heatmap.run import read_run
from lit_talr.report.runs import find
from lit_talr.utils.weight_files import model_folder


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("files", "lost"),
    [
        (["config.yaml", "skeleton/notes.txt"], "config.yaml, skeleton"),
        (["metrics.json", "train.jsonl"], "metrics.json"),
        (["export/config.json", "adapter/mine.txt", "provenance.json"], "adapter, export, provenance.json"),
    ],
)
def test_a_start_deletes_nothing_that_no_run_has_written(tmp_path: Path, files: list[str], lost: str) -> None:
    write_files(tmp_path, *files)
    with pytest.raises(ValueError, match=f"^`run`: {tmp_path} holds {lost}, which no run has written and this one would replace; name a new folder"):
        check_others(tmp_path)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["train.jsonl", "notes/a.txt", "slurm-1.out"], "notes, slurm-1.out, train.jsonl; "),
        ([f"{number}.csv" for number in range(7)], "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more; "),
        ([".lock", "events.out.tfevents.1", "skeleton/lit_talr_manifest.json", "answers/general-base.jsonl", "trial.json"], None),  # a run that died early
    ],
)
def test_other_files_of_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str], named: str | None) -> None:
    write_files(tmp_path, *files)
    with caplog.at_level(logging.WARNING, "lit_talr"):
        check_others(tmp_path)
        (tmp_path / "provenance.json").write_text(json.dumps({"fits": []}))
        check_others(tmp_path)  # a run has started there since, of which this said it
    assert [record.getMessage().split(" already holds ")[1].split("the files of")[0] for record in caplog.records] == ([named] if named else [])


@pytest.mark.parametrize(
    ("given", "meant"),
    [("run/export/model.safetensors", "run/export"), ("run/checkpoints/last.ckpt", "run/export"), ("run", "run/export"), ("rum", "run")],
)
def test_the_folder_that_is_meant(tmp_path: Path, given: str, meant: str) -> None:
    write_files(tmp_path, "run/export/config.json", "run/export/model.safetensors", "run/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=f"{given} is not a folder with a config.json; did you mean {tmp_path / meant}.$"):
        check_place("model.pretrained", str(tmp_path / given), "config.json")


@pytest.mark.parametrize(
    ("refuse", "given", "meant"),
    [
        (model_folder, "run/checkpoints/last.ckpt", "run/export"),
        (model_folder, "run/export/model.safetensors", "run/export"),
        (lambda name: read_run(Path(name)), "run/export", "run"),
        (lambda name: curriculum(Path(name)), "run/export", "run"),
        (lambda name: read_facts(Path(name)), "run/export", "run"),
        (lambda name: find([Path(name)]), "run/checkpoints/last.ckpt", "run"),
        (lambda name: find([Path(name)]), "run/export", "run"),
    ],
)
def test_a_folder_of_the_wrong_kind_names_the_one_beside_it(tmp_path: Path, refuse: Callable[[str], object], given: str, meant: str) -> None:
    run = ("config.yaml", "metrics.json", "token_probability.parquet", "checkpoints/last.ckpt")
    for file in (*run, "export/config.json", "export/model.safetensors"):
        (tmp_path / "run" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / file).touch()
    with pytest.raises(ValueError, match=rf"{given}.*; did you mean {tmp_path / meant}\?$"):
        refuse(str(tmp_path / given))
