"""A run is its folder: whatever logs, wherever it is moved, and wherever it is read from."""

import json
from pathlib import Path

import pandas as pd
import pytest
from jsonargparse import Namespace

from lit_talr.cli.command_line import main
from lit_talr.cli.moved import follow, run_of
from tests.helpers.fits import write_data
from tests.helpers.scores import read_values


def fit_words(folder: Path) -> list[str]:
    """A command line that trains one step on a tiny model, without a run folder."""
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    words = ["fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/standard.yaml", *files]
    words += ["--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--model.generation.max_new_tokens", "4"]
    return [*words, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]


def logger(kind: str, folder: str) -> dict[str, object]:
    return {"class_path": kind, "init_args": {"save_dir": folder, "name": "", "version": ""}}


@pytest.mark.slow
def test_a_run_is_tested_and_shown_after_a_move_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "data")
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    loggers = [logger("CSVLogger", "runs/x/csv"), logger("TensorBoardLogger", "runs/x")]
    callbacks = ["Summary", "TokenProbability", "HFExport", "WholeCheckpoint", {"class_path": "Timer", "init_args": {"duration": "01:00:00:00"}}]
    callbacks += [{"class_path": "ModelCheckpoint", "init_args": {"filename": "own-{epoch}"}}]
    main([*fit_words(tmp_path / "data"), "--run", "runs/x", "--trainer.logger", json.dumps(loggers), "--trainer.callbacks", json.dumps(callbacks)])
    files = {path.relative_to(home).as_posix() for path in home.rglob("*")}
    parts = ("config.yaml", "metrics.json", "token_probability.parquet", "checkpoints/last-step=1.ckpt", "checkpoints/own-epoch=1.ckpt", "csv/metrics.csv")
    assert {f"runs/x/{part}" for part in parts} <= files

    (home / "runs" / "x").rename(tmp_path / "moved")
    monkeypatch.chdir(elsewhere)
    main(["test", "-c", "../moved/config.yaml", "--ckpt_path", "last"])
    assert "test/score" in read_values(tmp_path / "moved", "test")
    logged = pd.read_csv(tmp_path / "moved" / "csv" / "metrics.csv")
    assert logged["test/score"].count() == 1 and logged["val/nll"].count() == 1  # of test, and still of fit
    main(["heatmap", "../moved"])
    assert (tmp_path / "moved" / "heatmap.html").is_file()
    assert not list(elsewhere.iterdir()) and not list((home / "runs").glob("[!.]*"))

    monkeypatch.chdir(tmp_path / "moved")
    main(["fit", "-c", "config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "2"])
    assert (tmp_path / "moved" / "checkpoints" / "last-step=2.ckpt").is_file()
    assert {path.name for path in (tmp_path / "moved").parent.iterdir()} >= {"moved", "home", "elsewhere"}


@pytest.mark.slow
def test_two_runs_log_into_one_folder(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    words = [*fit_words(tmp_path / "data"), "--trainer.logger", json.dumps(logger("TensorBoardLogger", str(tmp_path / "board")))]
    words += ["--trainer.callbacks", '["Summary", "WholeCheckpoint"]']
    for name in "ab":
        main([*words, "--run", str(tmp_path / name)])
        assert (tmp_path / name / "config.yaml").is_file() and (tmp_path / name / "metrics.json").is_file()
    assert len(list((tmp_path / "board").glob("events*"))) == 2


def test_only_paths_into_the_folder_follow_it(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    inside = {"save_dir": "runs/x/csv"}
    config = Namespace(run="runs/x", model="runs/x/unknown", data="runs/xy", logger=[Namespace(init_args=Namespace(**inside)), inside], seed=3, name="")
    follow(config, "./runs/x/", tmp_path)
    there = {"save_dir": str(tmp_path / "csv")}
    assert config == Namespace(
        run=str(tmp_path), model="runs/x/unknown", data="runs/xy", logger=[Namespace(init_args=Namespace(**there)), there], seed=3, name=""
    )


def test_a_copy_of_a_configuration_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "provenance.json").write_text("{}")
    assert run_of(str(run / "config.yaml")) == run_of(str(run / "config.resume-12.yaml")) == run
    assert run_of(str(run / "mine.yaml")) is None and run_of(str(tmp_path / "config.yaml")) is None
    monkeypatch.chdir(run)
    assert run_of("config.yaml") == run
