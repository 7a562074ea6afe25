"""The code of docs/python.md runs, and README.md has the same twelve lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_talr
from lit_talr.modeling.loading import load_model
from tests.helpers.fits import QWEN3, write_data

ROOT = Path(__file__).parents[2]
PAGE, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/python.md", "README.md"))


def block(page: str, text: str) -> str:
    """The one Python block of a page that contains a text."""
    (code,) = (code for code in re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE) if text in code)
    return code


def run(code: str, **names: Any) -> dict[str, Any]:
    """Run a block as a fresh module would, with some names defined, and return all its names."""
    exec(compile(code, "docs/python.md", "exec"), names)
    return names


def adapted(code: str, changes: dict[str, str]) -> str:
    """The code with a tiny model and a short run in place of what a reader has."""
    for old, new in changes.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def test_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    (tmp_path / "tokenizer").rename(tmp_path / "run")
    for file in (tmp_path / "model").iterdir():
        file.rename(tmp_path / "run" / file.name)
    monkeypatch.chdir(tmp_path)
    changes = {"Qwen/Qwen2.5-3B-Instruct": str(tmp_path / "run"), "max_epochs=2": "max_epochs=1, logger=False", "bf16-mixed": "32-true"}
    changes["loss=TALR()"] = "loss=TALR(), generation=lit_talr.Generation(max_new_tokens=2)"
    names = run(adapted(block(PAGE, "trainer.test("), changes), lit_talr=lit_talr)
    assert names["trainer"].global_step == 2  # 20 rows in steps of 16
    assert 0 <= names["scores"][0]["test/score"] <= 1
    (group,) = names["trainer"].optimizers[0].param_groups
    assert type(names["trainer"].optimizers[0]) is torch.optim.AdamW and group["initial_lr"] == 1e-6 and group["weight_decay"] == 0


def test_options_are_objects() -> None:
    names = run(block(PAGE, "batching=Batching("), Records=lit_talr.Records, DomainSFT=lit_talr.DomainSFT, TALR=lit_talr.TALR)
    assert names["data"].batching.batch_size == 8 and names["module"].compute.gradient_checkpointing and names["adapted"].lora.r == 16


def test_the_readme_has_the_same_lines() -> None:
    lines = [line for line in block(README, "trainer.test(").splitlines() if line]
    assert lines == [line for line in block(PAGE, "trainer.test(").splitlines() if line] and len(lines) <= 12


def test_a_bare_loop_computes_the_loss_of_talr_loss() -> None:
    torch.manual_seed(0)
    model = load_model(None, None, QWEN3, 259, None)
    input_ids = torch.randint(256, (3, 9))
    labels = torch.where(torch.arange(9) < torch.tensor([[4], [2], [5]]), -100, input_ids)
    names = run(block(PAGE, "functional.cross_entropy"), model=model, input_ids=input_ids, labels=labels)
    assert names["loss"].item() == pytest.approx(lit_talr.talr_loss(model(input_ids), labels).item(), rel=1e-6)
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_notebook_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    code = adapted(block(PAGE, "Clinic("), {"logger=False": f"logger=False, default_root_dir={json.dumps(str(tmp_path))}"})
    trainer = run(code)["trainer"]
    assert trainer.global_step == 4
    assert f"{float(trainer.callback_metrics['val/nll']):.3f} nats per token" in capsys.readouterr().out
