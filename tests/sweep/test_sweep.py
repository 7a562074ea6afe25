"""Sweeps: every point once, whoever is killed; what fails is said and tried again; the guide chooses by validation."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_talr.cli.command_line import find_configs, main
from lit_talr.sweep import command, runs, sweep
from lit_talr.sweep.guide import losses, probability_within
from lit_talr.sweep.points import base_model, points
from lit_talr.sweep.queue import Queue
from lit_talr.sweep.space import rate_text, read_space
from tests.helpers.fits import write_data

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))

STUB = '''
"""In place of lit-talr: writes what fit, test and merge leave, and a line for each call."""
import json, os, pathlib, sys, time, zipfile

verb, *words = sys.argv[1:]
option = lambda name, default=None: words[words.index(name) + 1] if name in words else default
home = pathlib.Path(__file__).parent
run = pathlib.Path(option("--run") or option("--out") or pathlib.Path(option("-c")).parent)
name = run.parent.name if verb == "merge" else run.name
with (home / "calls").open("a") as file:
    file.write(f"{verb} {name}{' resumed' if verb == 'fit' and '--ckpt_path' in words else ''}\\n")
if (home / f"fail-{verb}-{name}").exists():
    print("Some page of text.")
    print("lit-talr: this rate is no good.")
    print("Afterwards.")
    sys.exit(1)
scores = json.loads((home / "scores.json").read_text()) if (home / "scores.json").exists() else {}
score, drop = scores.get(name, [0.5, 0.01])
run.mkdir(parents=True, exist_ok=True)
metrics = json.loads((run / "metrics.json").read_text()) if (run / "metrics.json").exists() else {}
if verb == "fit":
    (run / "config.yaml").write_text("callbacks: HFExport")
    (run / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(run / "checkpoints" / "last-step=1.ckpt", "w") as file:
        file.writestr("x", "x")
for file in (home / "sleep", home / f"sleep-{verb}"):
    if file.exists():
        time.sleep(float(file.read_text()))
if verb == "fit":
    (run / "export").mkdir(exist_ok=True)
    if not (home / "nothing-new").exists():
        metrics = {"fit": {"val/score": score, "general/drop": drop, "step": 7}}
elif verb == "test":
    if "--ckpt_path" in words:
        assert (run / "checkpoints").exists()
    metrics["test"] = {"test/score": score, "general/mean": 0.9 if name.endswith("base") else 0.9 - drop}
    (run / "answers").mkdir(exist_ok=True)
    for part, right in (("general-test", [True, False, True]), ("general-base-test", [True, True, True])):
        lines = [json.dumps({"suite": "sums", "id": index, "correct": correct}) for index, correct in enumerate(right)]
        (run / "answers" / f"{part}.jsonl").write_text("\\n".join(lines) + "\\n")
if verb != "merge":
    (run / "metrics.json.new").write_text(json.dumps(metrics))
    os.replace(run / "metrics.json.new", run / "metrics.json")
'''
SPACE: dict[str, Any] = {
    "rates": ["1e-3", 0.01],
    "seeds": [0, 1],
    "remedies": {"standard": ["-c", "configs/loss/standard.yaml"], "talr": ["-c", "configs/loss/talr.yaml"]},
}


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stub's folder; commands run it."""
    home = tmp_path / "stub"
    home.mkdir()
    (home / "stub.py").write_text(STUB)
    monkeypatch.setattr(runs, "COMMAND", [sys.executable, "-S", str(home / "stub.py")])
    monkeypatch.setattr(command, "POLL", 0.1)
    return home


def write_space(tmp_path: Path, **changes: Any) -> str:
    """A space with changes; None takes a key away."""
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in {**SPACE, **changes}.items() if value is not None}, sort_keys=False))
    return str(file)


def words(tmp_path: Path, **changes: Any) -> list[str]:
    common = ["--model.pretrained", "some/base", "--trainer.callbacks", "[GeneralScore]"]
    return [*common, "--space", write_space(tmp_path, **changes), "--out", str(tmp_path / "out")]


def calls(stub: Path) -> Counter[str]:
    return Counter((stub / "calls").read_text().splitlines()) if (stub / "calls").exists() else Counter()


def record(tmp_path: Path, name: str, file: str = "trial.json") -> dict[str, Any]:
    return json.loads((tmp_path / "out" / name / file).read_text())


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence at the end."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.startswith("lit-talr: ") and error.count("\n") == 1, error
    return error


ALL = {f"{remedy}-{rate}-s{seed}" for remedy in ("standard", "talr") for rate in ("1e-3", "1e-2") for seed in (0, 1)}
ONCE = {"test base": 1, **{f"{verb} {name}": 1 for name in ALL for verb in ("fit", "test")}}


def test_rates_are_written_as_people_write_them() -> None:
    assert [rate_text(rate) for rate in (3e-4, 0.01, 1.5e-5, 1e-6, 0.5, 10.0)] == ["3e-4", "1e-2", "1.5e-5", "1e-6", "5e-1", "1e1"]


def test_points_have_names_and_words_in_order(tmp_path: Path) -> None:
    space = read_space(
        Path(
            write_space(
                tmp_path,
                rates=["3e-4"],
                seeds=[2],
                seed_words=["--data.seed"],
                variants={"cot": ["--data.target", "cot"], "label": ["--data.target", "label", "--data.shuffle", True]},
                remedies={"standard": ["-c", "S"], "lora": {"words": ["-c", "L"], "rates": ["1e-3", 1]}},
                alphas=[0.5, 1],
                paper={"cot/lora/0.001": {"domain": 0.1, "general": "0.2"}, "label/base": {"domain": 0, "general": 1}},
            )
        )
    )
    (tmp_path / "S").write_text("model: {pretrained: some/base}")
    resolve = lambda words: [str(tmp_path / "S") if word in "SL" else word for word in words]  # noqa: E731
    found = points(space, ["--a", "b"], ["--extra"], Path("o"), resolve)
    trials = [f"{variant}-{name}" for variant in ("cot", "label") for name in ("standard-3e-4-s2", "lora-1e-3-s2", "lora-1e0-s2")]
    wise = [f"{variant}-standard-3e-4-s2-wise-{alpha}" for variant in ("cot", "label") for alpha in ("0.5", "1")]
    assert {point.name for point in found} == {"cot-base", "label-base", *trials, *wise}
    by_name = {point.name: point for point in found}
    assert by_name["cot-base"].lines() == ["lit-talr test --a b --data.target cot -c S --run o/cot-base"]
    assert by_name["label-lora-1e-3-s2"].lines() == [
        "lit-talr fit --a b --data.target label --data.shuffle true -c L "
        "--model.optimizer.lr 1e-3 --seed_everything 2 --data.seed 2 --extra --run o/label-lora-1e-3-s2",
        "lit-talr test -c o/label-lora-1e-3-s2/config.yaml --ckpt_path last",
    ]
    point = by_name["cot-standard-3e-4-s2-wise-0.5"]
    assert point.lines()[0] == "lit-talr merge --base some/base --tuned o/cot-standard-3e-4-s2/export --alpha 0.5 --out o/cot-standard-3e-4-s2-wise-0.5/merged"
    expected = {"variant": "cot", "remedy": "wise-ft", "rate": 3e-4, "seed": 2, "alpha": 0.5, "of": "cot-standard-3e-4-s2", "source": "standard"}
    assert point.record().items() >= {**expected, "base": "cot-base", "paper": None}.items()
    assert by_name["cot-lora-1e-3-s2"].paper == {"domain": 0.1, "general": 0.2} and by_name["label-base"].paper == {"domain": 0.0, "general": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": [1]}, "space.yaml: there is no key `rate`; there are rates, seeds"),
        ({"rates": [0]}, "`rates` must hold numbers above 0, got 0."),
        ({"rates": ["much"]}, "`rates` must hold numbers above 0, got 'much'."),
        ({"rates": 1e-3}, "`rates` must be a list with something in it, got 0.001."),
        ({"rates": [1e-3, "1e-3"]}, "`rates` must hold each value once"),
        ({"rates": None}, "`remedies.standard` has no rates; give `rates`"),
        ({"seeds": [-1]}, "`seeds` must hold whole numbers, 0 or more, got -1."),
        ({"seed_words": ["data.seed"]}, "`seed_words` must hold options, such as --data.seed, got 'data.seed'."),
        ({"remedies": None}, "`remedies` must be a mapping with at least one key, got None."),
        ({"remedies": {"base": []}}, "`base` is the sweep's own word"),
        ({"remedies": {"a/b": []}}, "`remedies`: a name becomes a part of a folder's"),
        ({"remedies": {"a": {"word": []}}}, "`remedies.a`: there is no key `word`; there are words, rates."),
        ({"remedies": {"a": {"rates": [1]}}}, "`remedies.a` needs `words`"),
        ({"remedies": {"a": "-c x"}}, "`remedies.a` must be a list of words"),
        ({"remedies": {"a": ["--run", "x"]}}, "`remedies.a`: `--run` is not for you to give"),
        ({"remedies": {"a": ["--modle.x", 1]}}, "`remedies.a`: there is no option `--modle.x`, neither of sweep nor of fit"),
        ({"remedies": {"a": ["x", "-c", "y"]}}, "`remedies.a`: `x` belongs to no option"),
        (
            {"variants": {"a": ["--data.day", date(2026, 1, 2)]}},
            "`variants.a` must be a list of words",
        ),
        ({"remedies": {"a": ["-c", "nope.yaml"]}}, "nope.yaml: no such configuration file"),
        ({"variants": {"a": [], "a-talr": []}, "remedies": {"talr-b": [], "b": []}}, "two points of the name `a-talr-b-1e-3-s0`"),
        ({"alphas": [2]}, "`alphas` must hold numbers in [0, 1], got 2."),
        ({"alphas": [0.5], "alphas_of": ["flow"]}, "`alphas_of`: there is no remedy `flow`; there are standard, talr."),
        ({"alphas_of": ["talr"]}, "`alphas` is missing"),
        ({"keep": "no"}, "`keep` must be true or false, got 'no'."),
        ({"paper": {"flow/1e-3": {"domain": 1, "general": 1}}}, "`paper`: there is no point `flow/1e-3` in the space; there are base, standard/1e-2"),
        ({"paper": {"talr/1e-3": {"domain": 1}}}, "`paper.talr/1e-3`.general must be a number, got None."),
    ],
)
def test_a_space_is_read_strictly(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str) -> None:
    assert message in fails(capsys, *words(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["-c", "nope.yaml"], "nope.yaml: no such configuration file"),
        (["--workers", "0"], "`--workers` must be at least 1, got 0."),
        (["--workers", "many"], "invalid int value: 'many'"),
        (["--budget", "general_drop=much"], "`--budget` must be general_drop=NUMBER"),
        (["--ckpt_path", "last"], "`--ckpt_path` is not for you to give"),
        (["--modle.x", "1"], "sweep: there is no option `--modle.x`, neither of sweep nor of fit"),
        (["--storage", "nosuch://user:secret@host"], "`--storage`: this nosuch storage could not be opened"),
    ],
)
def test_bad_words(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str) -> None:
    error = fails(capsys, *words(tmp_path), *extra)
    assert message in error and "secret" not in error and not calls(stub)


def test_the_starting_model_is_what_the_last_word_says(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {pretrained: of/file}")
    file = ["-c", str(tmp_path / "a.yaml")]
    assert base_model(["--model.pretrained", "of/words", *file]) == "of/file"
    assert base_model([*file, "--model.pretrained=of/words"]) == "of/words"
    with pytest.raises(ValueError, match="Wise-FT interpolates with the starting model, and none is named"):
        base_model([*file, "--model.pretrained", "null"])
    with pytest.raises(ValueError, match="Wise-FT does not know `model.revision`"):
        base_model([*file, "--model.revision", "v2"])


def test_a_dry_run_prints_every_command_and_writes_nothing(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(tmp_path.rglob("*"))
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5]), "--dry-run"])
    printed = capsys.readouterr().out.splitlines()
    verbs = Counter(" ".join(line.split()[:2]) for line in printed if line.startswith("lit-talr "))
    assert verbs == {"lit-talr fit": 8, "lit-talr test": 1 + 8 + 8, "lit-talr merge": 8}
    assert printed[-1] == "8 trial(s), 1 starting model(s), 8 point(s) of Wise-FT. Nothing was run."
    main(["sweep", *words(tmp_path), "--dry_run", "--budget", "general_drop=0.02"])
    guided = capsys.readouterr().out
    assert guided.count("--trainer.callbacks+=GeneralBudget --trainer.callbacks.general_drop=0.02 --run") == 8 and "lit-talr test" not in guided
    assert set(tmp_path.rglob("*")) == {*before, tmp_path / "space.yaml"}
    assert not calls(stub)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda path: path.stem)
def test_shipped_spaces_are_found_from_any_folder(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command that would run is one that the parser takes."""
    monkeypatch.chdir(tmp_path)
    made_for = {"clinic": ["model/clinic", "data/clinic"], "medcalc_tables": ["data/medcalc"]}
    common = [word for part in ("base", *made_for.get(file.stem, ["model/lab", "data/clinic"])) for word in ("-c", f"configs/{part}.yaml")]
    main(["sweep", *common, "--space", f"configs/sweep/{file.name}", "--out", "o", "--dry-run"])
    capsys.readouterr()
    space, seen = read_space(file), set()
    for point in points(space, common, [], Path("o"), find_configs):
        if point.alpha is None and not {point.variant, point.remedy} <= seen:
            seen |= {point.variant, point.remedy}
            with pytest.raises(SystemExit) as ended:
                main([*point.commands[0], "--print_config"])
            assert ended.value.code == 0, capsys.readouterr().err
            model_config = yaml.safe_load(capsys.readouterr().out)["model"]
            assert point.rate in (None, model_config["optimizer"]["init_args"]["lr"])


def test_the_papers_tables_have_the_papers_numbers() -> None:
    """Averages as reported; the third model is derived from them."""
    paper = read_space(ROOT / "configs" / "sweep" / "medcalc_tables.yaml").paper
    averages = {"standard": (0.534, 0.692), "l2": (0.506, 0.697), "lora": (0.181, 0.490)}
    averages |= {"wise-ft": (0.198, 0.727), "flow": (0.469, 0.692), "talr": (0.501, 0.717)}
    for remedy, (domain, general) in averages.items():
        rows = [paper[f"{model}/{remedy}/1e-6"] for model in ("qwen2.5-3b", "qwen3-4b", "gemma3-4b")]
        assert sum(row["domain"] for row in rows) / 3 == pytest.approx(domain, abs=0.0011)
        assert sum(row["general"] for row in rows) / 3 == pytest.approx(general, abs=0.0011)


def test_every_point_runs_once_and_only_once(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5]), "--workers", "2"])
    wise = [f"standard-{rate}-s{seed}-wise-{alpha}" for rate in ("1e-3", "1e-2") for seed in (0, 1) for alpha in ("0.3", "0.5")]
    once = {**ONCE, **{f"{verb} {name}": 1 for name in wise for verb in ("merge", "test")}}
    assert calls(stub) == once
    printed = capsys.readouterr().out
    assert "talr-1e-3-s0  test/score 0.500  general/mean 0.890  0 s" in printed and printed.count("test/score") == 17
    trial = record(tmp_path, "talr-1e-2-s1")
    assert trial.items() >= {"variant": None, "remedy": "talr", "rate": 0.01, "seed": 1, "alpha": None, "of": None, "base": "base", "source": None}.items()
    assert trial["commands"][1] == f"lit-talr test -c {tmp_path}/out/talr-1e-2-s1/config.yaml --ckpt_path last"
    assert record(tmp_path, "base")["remedy"] == "base" and record(tmp_path, wise[0])["of"] == "standard-1e-3-s0"
    assert not list((tmp_path / "out").glob("*/merged")) and (tmp_path / "out" / "talr-1e-2-s1" / "export").is_dir()
    assert record(tmp_path, "", "sweep.json")["failed"] == {} and record(tmp_path, "", "sweep.json")["words"][0] == "--model.pretrained"

    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5])])
    assert calls(stub) == once
    (tmp_path / "out" / "study.journal").unlink()
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5])])
    assert calls(stub) == once
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5, 0.7], keep=False)])
    assert sum((calls(stub) - Counter(once)).values()) == 8
    assert [path.parent.name for path in (tmp_path / "out").glob("*/export")].count("standard-1e-3-s0") == 0


def test_interpolations_of_a_trial_that_is_made_again_are_too(tmp_path: Path, stub: Path) -> None:
    main(["sweep", *words(tmp_path, alphas=[0.5], rates=[1e-3], seeds=[0])])
    for name in ("base", "standard-1e-3-s0", "talr-1e-3-s0"):
        shutil.rmtree(tmp_path / "out" / name)
    main(["sweep", *words(tmp_path, alphas=[0.5], rates=[1e-3], seeds=[0]), "--trainer.max_epochs", "9"])
    assert set(calls(stub).values()) == {2} and calls(stub)["test standard-1e-3-s0-wise-0.5"] == 2


def test_half_a_line_of_the_journal_is_taken_off_while_others_use_it(tmp_path: Path) -> None:
    queue = Queue(tmp_path, None, "study", 1)
    queue.add(["a", "b"], lambda name: False)
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code": 4, "wor')
    taken = queue.take(["a", "b"])
    assert taken is not None
    queue.put_back(taken)
    assert queue.is_busy(["a", "b"]) and Queue(tmp_path, None, "study", 1).counts(["a", "b"]) == ([], {})


def test_what_was_left_is_waited_for_until_it_is_put_back(tmp_path: Path) -> None:
    """A worker that finds its lock still held by a command of another one must not take the sweep for ended."""
    queue = Queue(tmp_path, None, "study", 1)
    queue.add(["a"], lambda name: False)
    with (tmp_path / ".locks" / "a").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert queue.take(["a"]) is None and queue.is_busy(["a"])
    taken = queue.take(["a"])
    assert taken is not None
    queue.done(taken, [0.5], [], lambda name: True)
    assert not queue.is_busy(["a"]) and queue.counts(["a"]) == (["a"], {})


def test_the_page_hparams_of_tensorboard(tmp_path: Path, stub: Path) -> None:
    main(["sweep", *words(tmp_path, rates=[1e-3], seeds=[0], alphas=[0.5])])
    main(["sweep", *words(tmp_path, rates=[1e-3], seeds=[0], alphas=[0.5])])
    folder = tmp_path / "out" / "standard-1e-3-s0-wise-0.5"
    assert len(list(folder.glob("events*"))) == 1
    events = EventAccumulator(str(folder)).Reload()
    data = HParamsPluginData.FromString(events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content)
    found = {key: value.string_value or value.number_value for key, value in data.session_start_info.hparams.items()}
    assert found == {"remedy": "wise-ft", "rate": 1e-3, "seed": 0.0, "alpha": 0.5}
    assert events.Scalars("general/drop")[0].value == pytest.approx(0.01)
    assert events.Scalars("test/score")[0].value == 0.5
    trial = EventAccumulator(str(tmp_path / "out" / "talr-1e-3-s0")).Reload()
    assert [event.step for event in trial.Scalars("test/score")] == [7]


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


def test_folders_of_other_runs_are_not_touched(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "out" / "talr-1e-3-s0"
    mine.mkdir(parents=True)
    (mine / "config.yaml").write_text("mine")
    assert f"{mine} is a run that no sweep has made" in fails(capsys, *words(tmp_path))
    (mine / "config.yaml").unlink()
    main(["sweep", *words(tmp_path, seeds=[0])])
    assert "base was made by other words (its trial.json has them)" in fails(capsys, *words(tmp_path, seeds=[0]), "--trainer.max_epochs", "9")


def test_without_general_suites_there_is_one_objective(tmp_path: Path, stub: Path) -> None:
    import optuna

    storage = f"sqlite:///{tmp_path / 'study.db'}"
    main(["sweep", "--space", write_space(tmp_path, rates=[1e-3], seeds=[0]), "--out", str(tmp_path / "out"), "--storage", storage])
    (summary,) = optuna.get_all_study_summaries(storage)
    assert len(summary.directions) == 1 and summary.n_trials == 3
    assert sum(calls(stub).values()) == 5


def start(words: list[str]) -> BaseProcess:
    """A sweep in a process of its own; forked, since importing takes longer than all else here."""
    process = get_context("fork").Process(target=sweep, args=(words, list))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def wait_for(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_processes_on_one_storage_run_each_point_once(tmp_path: Path, stub: Path) -> None:
    (stub / "sleep").write_text("0.05")
    both = [start([*words(tmp_path, alphas=[0.5]), "--workers", "2"]) for _ in range(2)]
    assert [ended(process) for process in both] == [0, 0]
    wise = [f"standard-{rate}-s{seed}-wise-0.5" for rate in ("1e-3", "1e-2") for seed in (0, 1)]
    assert calls(stub) == {**ONCE, **{f"{verb} {name}": 1 for name in wise for verb in ("merge", "test")}}


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


def test_told_to_end_it_tells_its_commands_and_all_can_be_resumed(tmp_path: Path, stub: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path, rates=[1e-3], seeds=[0], remedies={"talr": []})
    (stub / "sleep-fit").write_text("20")
    process = start(given)
    wait_for(lambda: (tmp_path / "out" / "talr-1e-3-s0" / "checkpoints" / "last-step=1.ckpt").exists())
    os.kill(process.pid or 0, signal.SIGTERM)
    assert ended(process) == 128 + signal.SIGTERM
    assert "Stopped; the same command goes on from here." in capfd.readouterr().err
    (stub / "sleep-fit").unlink()
    assert ended(start(given)) == 0
    assert calls(stub) == {"test base": 1, "fit talr-1e-3-s0": 1, "fit talr-1e-3-s0 resumed": 1, "test talr-1e-3-s0": 1}


def test_killed_while_the_export_is_written_the_numbers_of_training_stay(tmp_path: Path, stub: Path) -> None:
    """Resumed from a checkpoint of the very end, ``fit`` measures nothing again."""
    given = words(tmp_path, rates=[1e-3], seeds=[0], remedies={"talr": []})
    main(["sweep", *given])
    run = tmp_path / "out" / "talr-1e-3-s0"
    numbers = record(tmp_path, "talr-1e-3-s0", "metrics.json")["fit"]
    shutil.rmtree(run / "export")
    (run / "metrics.json").write_text(json.dumps({"fit": numbers}))
    (stub / "nothing-new").touch()
    main(["sweep", *given])
    assert calls(stub)["fit talr-1e-3-s0 resumed"] == 1 and calls(stub)["fit talr-1e-3-s0"] == 1 and calls(stub)["test talr-1e-3-s0"] == 2
    assert record(tmp_path, "talr-1e-3-s0", "metrics.json")["fit"] == numbers


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
    # One of three items was lost: the drop is a third of how often it is drawn, 0 in (2/3)^3 of all draws.
    assert found["test"]["P(drop <= budget)"] == pytest.approx(8 / 27, abs=0.02) and found["test"]["general/drop"] == pytest.approx(1 / 3)
    assert "--trainer.callbacks+=GeneralBudget --trainer.callbacks.general_drop=0.02" in record(tmp_path, "talr-1e-3-s0")["commands"][0]


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
    words = ["--space", write_space(tmp_path), "--out", str(tmp_path / "out"), "--budget", "general_drop=0.02"]
    assert "`--budget` needs the general score of every trial" in fails(capsys, *words)


def write_answers(folder: Path, name: str, right: dict[str, list[bool]]) -> None:
    rows = [{"suite": suite, "id": index, "correct": correct} for suite, items in right.items() for index, correct in enumerate(items)]
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    (folder / "answers" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_bootstrap_by_hand(tmp_path: Path) -> None:
    """Suite a loses one of its two items, b none of one: the drop is 0, 1/4 or 1/2, with chances 1/4, 1/2, 1/4."""
    write_answers(tmp_path, "general-base-test", {"a": [True, True], "b": [False]})
    write_answers(tmp_path, "general-test", {"a": [False, True], "b": [False]})
    lost = losses([tmp_path])
    assert lost == {"a": [1.0, 0.0], "b": [0.0]}
    found = [probability_within(lost, budget) for budget in (0.0, 0.25, 0.4, 0.5)]
    assert found == [pytest.approx(wanted, abs=0.02) for wanted in (0.25, 0.75, 0.75, 1.0)]
    assert probability_within(lost, 0.0) == found[0]
    write_answers(tmp_path / "other", "general-base-test", {"a": [True, True], "b": [False]})
    write_answers(tmp_path / "other", "general-test", {"a": [True, True], "b": [True]})
    assert losses([tmp_path, tmp_path / "other"]) == {"a": [0.5, 0.0], "b": [-0.5]}
    write_answers(tmp_path / "other", "general-test", {"a": [True, True]})
    with pytest.raises(ValueError, match="must be of the same items"):
        losses([tmp_path / "other"])


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
    remedies = {"standard": standard, "lora": ["-c", "configs/lora.yaml", *standard, "--model.lora.r", 2]}
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
    assert found["chosen"]["trials"] == ["standard-1e-2-s0"] and found["test"]["P(drop <= budget)"] == 1 and found["test"]["items"] == {"repeat": 4}


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
