"""A stub in place of lit-talr, spaces for it, and what it leaves."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_talr.cli.command_line import main

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
    with zipfile.ZipFile(run / "part.ckpt", "w") as file:
        file.writestr("x", "x")
    os.replace(run / "part.ckpt", run / "checkpoints" / "last-step=1.ckpt")
for file in (home / "sleep", home / f"sleep-{verb}"):
    if file.exists():
        time.sleep(float(file.read_text()))
if verb == "fit":
    (run / "export").mkdir(exist_ok=True)
    if not (home / "nothing-new").exists():
        metrics = {"fit": {"val/score": score, "general/drop": drop}}
elif verb == "test":
    if "--ckpt_path" in words:
        assert (run / "checkpoints").exists()
    metrics["test"] = {"test/score": score, "general/mean": 0.9 if name.endswith("base") else 0.9 - drop}
    (run / "answers").mkdir(exist_ok=True)
    for part, right in (("general-test", [True, False, True]), ("general-base-test", [True, True, True])):
        lines = [json.dumps({"suite": "sums", "id": index, "correct": correct}) for index, correct in enumerate(right)]
        (run / "answers" / f"{part}.jsonl").write_text("\\n".join(lines) + "\\n")
belongs = {"step": 7, "weights": "b", "base": "b", "arithmetic": "fp32"}
for scores in metrics.values():
    scores.update({key: {"value": value, **belongs} for key, value in scores.items() if not isinstance(value, dict)})
if verb != "merge":
    (run / "metrics.json.new").write_text(json.dumps(metrics))
    os.replace(run / "metrics.json.new", run / "metrics.json")
'''
COMMON = ["-c", "configs/base.yaml", "-c", "configs/model/lab.yaml", "-c", "configs/data/clinic.yaml", "--model.pretrained", "some/base"]
SPACE: dict[str, Any] = {
    "rates": ["1e-3", 0.01],
    "seeds": [0, 1],
    "remedies": {"standard": ["-c", "configs/loss/standard.yaml"], "talr": ["-c", "configs/loss/talr.yaml"]},
}


def write_space(tmp_path: Path, **changes: Any) -> str:
    """A space with changes; None takes a key away."""
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in {**SPACE, **changes}.items() if value is not None}, sort_keys=False))
    return str(file)


def words(tmp_path: Path, **changes: Any) -> list[str]:
    return [
        *COMMON,
        "--trainer.callbacks",
        "[{class_path: GeneralScore, init_args: {suites: {}}}]",
        "--space",
        write_space(tmp_path, **changes),
        "--out",
        str(tmp_path / "out"),
    ]


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


def wait_for(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


ALL = {f"{remedy}-{rate}-s{seed}" for remedy in ("standard", "talr") for rate in ("1e-3", "1e-2") for seed in (0, 1)}
ONCE = {"test base": 1, **{f"{verb} {name}": 1 for name in ALL for verb in ("fit", "test")}}
