"""The code of docs/extending.md and README.md runs, as their commands run it."""

import importlib
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel

from lit_talr.cli.command_line import main
from lit_talr.data.example import Example
from lit_talr.modeling.loading import load_model
from tests.helpers.tiny import save_tokenizer

PAGES = [Path(__file__).parents[2] / name for name in ("README.md", "docs/extending.md")]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def common(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a tiny run, with the page's files where Python can import them."""
    for name, code in re.findall(r"`(my_\w+\.py)`:\n\n```python\n(.*?)```", request.param.read_text(encoding="utf-8"), flags=re.DOTALL):
        (tmp_path / name).write_text(code)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    save_tokenizer(tmp_path / "tokenizer", "qwen2")
    tiny = ["-c", "configs/base.yaml", "-c", "configs/model/tiny.yaml", "--model.tokenizer", str(tmp_path / "tokenizer")]
    return ["fit", *tiny, "--trainer.max_steps", "2", "--run", str(tmp_path / "run")]


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """Options of eight rows."""
    rows = [json.dumps({"prompt": "a", "response": "b" * length}) + "\n" for length in range(1, 9)]
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / "rows.jsonl"))]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    return ["-c", "configs/data/records.yaml", *files]


def test_a_loss_of_ones_own(common: list[str], rows: list[str], tmp_path: Path) -> None:
    main([*common, *rows, "--model.loss", "my_losses.Power", "--model.loss.power", "0.7"])
    assert "power: 0.7" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("common", PAGES[1:], indirect=True)
def test_a_penalty_of_ones_own(common: list[str], rows: list[str], tmp_path: Path) -> None:
    main([*common, *rows, "--model.loss", "my_penalties.Spring", "--model.loss.stiffness", "0.5", "--model.loss.loss", "TALR"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["fit"]["spring/distance"]["value"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("common", PAGES[1:], indirect=True)
def test_a_metric_of_ones_own(common: list[str], rows: list[str]) -> None:
    arguments = [*common, *rows, "-c", "configs/loss/standard.yaml", "--data.metric", "my_metrics.SameStart", "--data.metric.length", "2", "--print_config"]
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        main(arguments)
    metric = yaml.safe_load(printed.getvalue())["data"]["init_args"]["metric"]
    assert metric == {"class_path": "my_metrics.SameStart", "init_args": {"length": 2}}
    made = importlib.import_module("my_metrics").SameStart(2)
    judged = [made.judge(text, Example.from_prompt("?", "abc", meta={"answer": "abc"}))["correct"] for text in ("abx", "ba")]
    assert judged == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("common", PAGES[1:], indirect=True)
def test_an_optimizer_of_ones_own(common: list[str], rows: list[str], tmp_path: Path) -> None:
    main([*common, *rows, "-c", "configs/loss/standard.yaml", "--model.optimizer", "my_optimizers.FrozenNorms", "--model.optimizer.lr", "0.1"])
    (checkpoint,) = (tmp_path / "run").rglob("last*.ckpt")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(bool((weight == 1).all()) == ("norm" in name) for name, weight in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("common", PAGES[1:], indirect=True, ids=["extending.md"])
def test_an_adapter_of_ones_own(common: list[str], tmp_path: Path) -> None:
    main([*common, "-c", "configs/loss/talr.yaml", "--data", "my_domains.Sums"])  # the base model
    base = ["--model.architecture", "null", "--model.pretrained", str(tmp_path / "run" / "export"), "--model.tokenizer", "null"]
    adapter = ["--model.adapter", "my_adapters.HRA", "--model.adapter.r", "2", "--model.optimizer.lr", "1e-2", "--run", str(tmp_path / "adapted")]
    main([*common, "-c", "configs/loss/talr.yaml", "--data", "my_domains.Sums", *base, *adapter])
    merged = PeftModel.from_pretrained(load_model(base[3], None, None, 0, None), str(tmp_path / "adapted" / "adapter")).merge_and_unload().state_dict()
    exported = load_model(str(tmp_path / "adapted" / "export"), None, None, 0, None).state_dict()
    assert all(torch.allclose(exported[name], merged[name], rtol=0, atol=1e-6) for name in exported)


@pytest.mark.slow
@pytest.mark.parametrize("common", PAGES[1:], indirect=True, ids=["extending.md"])
def test_a_replay_and_a_merge_of_ones_own(common: list[str], tmp_path: Path) -> None:
    main([*common, "-c", "configs/loss/talr.yaml", "--data", "my_domains.Sums"])  # the base model
    base = ["--model.architecture", "null", "--model.pretrained", str(tmp_path / "run" / "export"), "--model.tokenizer", "null"]
    replay = ["--data", "my_domains.Sums", "--data.replay.general", "my_domains.Sums", "--data.replay.share", "0.1", "--model.optimizer.lr", "1e-2"]
    main([*common, "-c", "configs/loss/talr.yaml", *replay, *base, "--run", str(tmp_path / "tuned")])
    assert "replay" in (tmp_path / "tuned" / "config.yaml").read_text()
    script = [sys.executable, str(tmp_path / "my_merges.py"), base[3], str(tmp_path / "tuned" / "export"), str(tmp_path / "merged")]
    subprocess.run(script, check=True)
    own = ["--model.pretrained", str(tmp_path / "merged"), "--run", str(tmp_path / "scored"), "--model.generation.max_new_tokens", "2"]
    main(["test", "-c", str(tmp_path / "tuned" / "config.yaml"), *own])
    assert "test/score" in json.loads((tmp_path / "scored" / "metrics.json").read_text())["test"]


@pytest.mark.parametrize("common", [pytest.param(page, marks=pytest.mark.slow) for page in PAGES[:2]], indirect=True, ids=lambda page: page.name)
def test_a_domain_of_ones_own(common: list[str], tmp_path: Path) -> None:
    main([*common, "-c", "configs/loss/talr.yaml", "--data", "my_domains.Sums"])
    main(["test", "-c", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "last", "--model.generation.max_new_tokens", "2"])
    assert "test/score" in json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
