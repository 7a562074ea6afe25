"""Workers run every point once, even if they are killed; failures are reported and tried again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from jsonargparse import Namespace

from lit_talr.cli.command_line import main
from lit_talr.sweep import sweep
from tests.helpers.fits import write_data
from tests.sweep.stub import COMMON, ONCE, calls, fails, record, wait_for, words, write_space

ROOT = Path(__file__).parents[2]


def test_every_point_runs_once_and_only_once(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5]), "--workers", "2"])
    wise = [f"standard-{rate}-s{seed}-wise-{alpha}" for rate in ("1e-3", "1e-2") for seed in (0, 1) for alpha in ("0.3", "0.5")]
    once = {**ONCE, **{f"{verb} {name}": 1 for name in wise for verb in ("merge", "test")}}
    assert calls(stub) == once
    printed = capsys.readouterr().out
    assert re.search(r"talr-1e-3-s0  test/score 0\.500  general/mean 0\.890  \d+ s\n", printed) and printed.count("test/score") == 17
    trial = record(tmp_path, "talr-1e-2-s1")
    assert trial.items() >= {"variant": None, "remedy": "talr", "rate": 0.01, "seed": 1, "alpha": None, "of": None, "base": "base", "source": None}.items()
    assert trial["commands"][1] == f"lit-talr test -c {tmp_path}/out/talr-1e-2-s1/config.yaml --ckpt_path last"
    assert record(tmp_path, "base")["remedy"] == "base" and record(tmp_path, wise[0])["of"] == "standard-1e-3-s0"
    assert not list((tmp_path / "out").glob("*/merged")) and (tmp_path / "out" / "talr-1e-2-s1" / "export").is_dir()
    assert record(tmp_path, "", "sweep.json")["failed"] == {} and record(tmp_path, "", "sweep.json")["words"][:2] == ["-c", "configs/base.yaml"]

    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5])])
    assert calls(stub) == once
    (tmp_path / "out" / "study.journal").unlink()
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5])])
    assert calls(stub) == once
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5, 0.7], keep=False)])
    assert sum((calls(stub) - Counter(once)).values()) == 8
    assert [path.parent.name for path in (tmp_path / "out").glob("*/export")].count("standard-1e-3-s0") == 0


@pytest.mark.slow
def test_what_failed_is_said_stops_nothing_and_is_tried_again(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stub / "fail-fit-talr-1e-3-s0").touch()
    (stub / "fail-test-standard-1e-3-s1").touch()
    error = fails(capsys, *words(tmp_path, alphas=[0.5]))
    assert "2 of 13 point(s) failed: " in error and "talr-1e-3-s0" in error and "standard-1e-3-s1" in error
    failed = record(tmp_path, "", "sweep.json")["failed"]
    assert failed == {"talr-1e-3-s0": "fit failed: this rate is no good.", "standard-1e-3-s1": "test failed: this rate is no good."}
    assert sum(calls(stub).values()) == 1 + 2 * 8 - 1 + 2 * 3
    (stub / "fail-fit-talr-1e-3-s0").unlink()
    (stub / "fail-test-standard-1e-3-s1").unlink()
    main(["sweep", *words(tmp_path, alphas=[0.5])])
    assert record(tmp_path, "", "sweep.json")["failed"] == {}
    again = calls(stub)
    assert again["fit talr-1e-3-s0"] == 2 and again["fit standard-1e-3-s1"] == 1 and again["test standard-1e-3-s1"] == 2
    assert again["test standard-1e-3-s1-wise-0.5"] == 1 and again["fit standard-1e-3-s0"] == 1


@pytest.mark.slow
def test_without_general_suites_there_is_one_objective(tmp_path: Path, stub: Path) -> None:
    import optuna

    storage = f"sqlite:///{tmp_path / 'study.db'}"
    main(["sweep", *COMMON, "--space", write_space(tmp_path, rates=[1e-3], seeds=[0]), "--out", str(tmp_path / "out"), "--storage", storage])
    (summary,) = optuna.get_all_study_summaries(storage)
    assert len(summary.directions) == 1 and summary.n_trials == 3
    assert sum(calls(stub).values()) == 5


def start(words: list[str]) -> BaseProcess:
    """A sweep in a process of its own; forked, since importing takes longer than all else here."""
    config = Namespace(model=Namespace(pretrained="some/base", revision=None), trainer=Namespace(callbacks="GeneralScore"))
    process = get_context("fork").Process(target=sweep, args=(words, lambda words: config))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


@pytest.mark.slow
def test_two_processes_on_one_storage_run_each_point_once(tmp_path: Path, stub: Path) -> None:
    (stub / "sleep").write_text("0.05")
    both = [start([*words(tmp_path, alphas=[0.5]), "--workers", "2"]) for _ in range(2)]
    assert [ended(process) for process in both] == [0, 0]
    wise = [f"standard-{rate}-s{seed}-wise-0.5" for rate in ("1e-3", "1e-2") for seed in (0, 1)]
    assert calls(stub) == {**ONCE, **{f"{verb} {name}": 1 for name in wise for verb in ("merge", "test")}}


@pytest.mark.slow
def test_killed_outright_in_the_middle_nothing_is_lost_and_nothing_done_twice(tmp_path: Path, stub: Path) -> None:
    """What it had begun goes on without it, and is waited for."""
    (stub / "sleep").write_text("0.3")
    given = [*words(tmp_path), "--workers", "2"]
    for wanted in (4, 9):
        process = start(given)
        wait_for(lambda wanted=wanted: sum(calls(stub).values()) >= wanted)
        process.kill()
        assert ended(process) == -signal.SIGKILL
    both = [start(given) for _ in range(2)]
    assert [ended(process) for process in both] == [0, 0]
    assert calls(stub) == ONCE
    assert record(tmp_path, "", "sweep.json")["failed"] == {}


@pytest.mark.slow
def test_told_to_end_it_tells_its_commands_and_all_can_be_resumed(tmp_path: Path, stub: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path, rates=[1e-3], seeds=[0], remedies={"talr": ["-c", "configs/loss/talr.yaml"]})
    (stub / "sleep-fit").write_text("20")
    process = start(given)
    wait_for(lambda: (tmp_path / "out" / "talr-1e-3-s0" / "checkpoints" / "last-step=1.ckpt").exists())
    os.kill(process.pid or 0, signal.SIGTERM)
    assert ended(process) == 128 + signal.SIGTERM
    assert "Stopped; the same command continues from here." in capfd.readouterr().err
    (stub / "sleep-fit").unlink()
    assert ended(start(given)) == 0
    assert calls(stub) == {"test base": 1, "fit talr-1e-3-s0": 1, "fit talr-1e-3-s0 resumed": 1, "test talr-1e-3-s0": 1}


@pytest.mark.slow
def test_real_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle and gone on with: the weights of a run by hand; Wise-FT of merged adapters; and the guide."""
    write_data(tmp_path)
    shutil.copy(tmp_path / "test.jsonl", tmp_path / "general.jsonl")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    suite = {"class_path": "Records", "init_args": {split: str(tmp_path / "general.jsonl") for split in ("train", "val", "test")}}
    watched = [
        *[{"class_path": name} for name in ("Summary", "HFExport", "WholeCheckpoint")],
        {"class_path": "DomainScore", "init_args": {"every_n_epochs": 1}},
        {"class_path": "GeneralScore", "init_args": {"suites": {"repeat": suite}, "generation": {"max_new_tokens": 4}}},
    ]
    (tmp_path / "watched.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": watched}}))
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / f"{split}.jsonl"))]
    common = [
        *("-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", str(tmp_path / "watched.yaml"), *files),
        *("--model.pretrained", str(tmp_path / "model"), "--model.tokenizer", str(tmp_path / "tokenizer"), "--model.generation.max_new_tokens", "4"),
        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "1"),
    ]
    standard = ["-c", "configs/loss/standard.yaml"]
    remedies = {"standard": standard, "lora": ["-c", "configs/adapter/lora.yaml", *standard, "--model.adapter.r", 2]}
    space = write_space(tmp_path, rates=["1e-2"], seeds=[0], remedies=remedies, alphas=[0.5], alphas_of=["lora"])
    given = ["sweep", *common, "--space", space, "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "lit_talr", *given], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "out" / "standard-1e-2-s0.log").exists(), 120)
    process.kill()
    process.wait()
    main(given)
    for name in ("base", "standard-1e-2-s0", "lora-1e-2-s0", "lora-1e-2-s0-wise-0.5"):
        assert record(tmp_path, name, "metrics.json")["test"].keys() >= {"test/score", "general/mean"}, name
        assert list((tmp_path / "out" / name).glob("*.hparams"))
    assert len(record(tmp_path, "standard-1e-2-s0", "provenance.json")["fits"]) == 1
    assert record(tmp_path, "", "sweep.json")["failed"] == {}
    main(["fit", *common, *standard, "--model.optimizer.lr", "1e-2", "--seed_everything", "0", "--run", str(tmp_path / "by_hand")])
    exports = [(folder / "export" / "model.safetensors").read_bytes() for folder in (tmp_path / "by_hand", tmp_path / "out" / "standard-1e-2-s0")]
    assert exports[0] == exports[1]

    space = write_space(tmp_path, rates=["1e-2"], seeds=[0], remedies={"standard": standard})
    main(["sweep", *common, "--space", space, "--out", str(tmp_path / "guided"), "--budget", "general_drop=0.5"])
    found = json.loads((tmp_path / "guided" / "guide.json").read_text())
    assert found["chosen"]["trials"] == ["standard-1e-2-s0"] and found["test"]["P(drop <= budget)"] > 0.9 and found["test"]["items"] == {"repeat": 4}


@pytest.mark.slow
def test_the_study_is_killed_twice_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rate and one seed of the study's own space, on few rows; the page has all points in the end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    space = yaml.safe_load((ROOT / "configs" / "sweep" / "study.yaml").read_text())
    space |= {"rates": space["rates"][:1], "seeds": [0], "alphas": [0.5]}
    space["variants"] = {"cot": space["variants"]["cot"]}
    space["remedies"] = {name: {**remedy, "rates": remedy["rates"][:1]} if isinstance(remedy, dict) else remedy for name, remedy in space["remedies"].items()}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    small = ["--data.train_size", "16", "--data.val_size", "4", "--data.test_size", "4", "--trainer.max_epochs", "1"]
    given = ["sweep", "-c", "configs/experiment/lab_clinic.yaml", *small, "--space", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "out")]
    given += ["--workers", "2"]
    for wanted in (3, 9):  # run folders there are when the sweep is killed, with all that it runs
        process = subprocess.Popen([sys.executable, "-m", "lit_talr", *given], cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(lambda wanted=wanted: len(list((tmp_path / "out").glob("*/trial.json"))) >= wanted, 300)
        process.kill()
        process.wait()
    main(given)
    points = {path.parent.name for path in (tmp_path / "out").glob("*/trial.json")}
    assert len(points) == 2 + len(space["remedies"]) and {"cot-base", "cot-talr-1e-4-s0", "cot-standard-1e-4-s0-wise-0.5"} <= points
    for name in points:
        assert "test/score" in record(tmp_path, name, "metrics.json")["test"], name
        if "base" not in name and "wise" not in name:
            assert len(record(tmp_path, name, "provenance.json")["fits"]) <= 2
    assert record(tmp_path, "", "sweep.json")["failed"] == {}
    main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page" / "report.html")])
    assert len(pd.read_parquet(tmp_path / "page" / "results.parquet")) == len(points)
