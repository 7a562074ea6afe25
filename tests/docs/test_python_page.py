"""The code of docs/python.md runs, and README.md has the same twelve lines."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM

import lit_talr
from lit_talr import TALR, Constant, Records, talr_loss
from lit_talr.data.batch_plan import Batching
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
    changes[', default_root_dir="runs/mine"'] = ""
    changes["loss=TALR()"] = "loss=TALR(), generation=lit_talr.Generation(max_new_tokens=2)"
    names = run(adapted(block(PAGE, "trainer.test("), changes), lit_talr=lit_talr)
    assert names["trainer"].global_step == 2  # 20 rows in steps of 16
    assert 0 <= names["scores"][0]["test/score"] <= 1
    (group,) = names["trainer"].optimizers[0].param_groups
    assert type(names["trainer"].optimizers[0]) is torch.optim.AdamW and group["initial_lr"] == 1e-6 and group["weight_decay"] == 0


def test_options_are_objects() -> None:
    names = run(block(PAGE, "batching=Batching("), Records=lit_talr.Records, DomainSFT=lit_talr.DomainSFT, TALR=lit_talr.TALR)
    assert names["data"].batching.batch_size == 8 and names["module"].compute.gradient_checkpointing and names["adapted"].adapter.r == 16


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


def micro_batches(data: Records, epochs: int) -> list[dict[str, Tensor]]:
    """Each micro-batch of a run in its order, as transformers and TRL take it: rows padded on the right, labels not shifted."""
    plan, encoded, found = data.train_plan, data.encoded["train"], []
    assert plan is not None
    for plan.epoch in range(epochs):
        for part in plan:
            rows = [slice(encoded.offsets[index], encoded.offsets[index + 1]) for index in part.ids]
            width = max(row.stop - row.start for row in rows)
            batch = {name: torch.full((len(rows), width), fill) for name, fill in (("input_ids", 0), ("labels", -100), ("attention_mask", 0))}
            for number, row in enumerate(rows):
                tokens, length = torch.from_numpy(encoded.tokens[row]).long(), row.stop - row.start
                batch["input_ids"][number, :length], batch["attention_mask"][number, :length] = tokens, 1
                batch["labels"][number, :length] = torch.where(torch.from_numpy(encoded.supervised[row]), tokens, -100)
            found.append(batch)
    return found


@pytest.fixture(params=[1, 4], ids=["one micro-batch", "four micro-batches"])
def own_run(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> tuple[list[float], list[dict[str, Tensor]], int]:
    """The losses of the steps of our own run in fp32, its micro-batches, and how many a step has."""
    losses: list[float] = []

    class Watched(lit_talr.DomainSFT):
        def step_end(self, learning_rate: float) -> None:
            super().step_end(learning_rate)
            losses.append(float(self.trainer.callback_metrics["train/loss"]))

    batching = Batching(batch_size=4, micro_batch_size=4 // request.param)
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "val", "test")}
    data = Records(str(folder / "tokenizer"), batching=batching, **files)
    module = Watched(TALR(), partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0), Constant(), pretrained=str(folder / "model"))
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=2, num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=str(tmp_path), **options).fit(module, data)
    return losses, micro_batches(data, 2), request.param


def their_losses(trainer_class: Any, arguments: Any, folder: Path, batches: list[dict[str, Tensor]], accumulate: int, **options: Any) -> list[float]:
    """The losses of the steps of transformers' or TRL's trainer over the same micro-batches in the same order."""
    parts: list[float] = []

    class Recorded(trainer_class):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            parts.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(batches)

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    trainer = Recorded(model=model, args=arguments, train_dataset=Dataset.from_list([{"index": index} for index in range(len(batches))]), **options)
    trainer.data_collator = lambda rows: dict(batches[rows[0]["index"]])
    trainer.train()
    return [sum(parts[start : start + accumulate]) for start in range(0, len(parts), accumulate)]


def their_arguments(folder: Path, accumulate: int) -> dict[str, Any]:
    return {
        **{"output_dir": str(folder), "per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulate, "num_train_epochs": 1},
        **{"learning_rate": 1e-3, "weight_decay": 0.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "optim": "adamw_torch"},
        **{"use_cpu": True, "report_to": [], "save_strategy": "no", "logging_strategy": "no", "remove_unused_columns": False, "disable_tqdm": True},
    }


@pytest.mark.slow
def test_transformers_trainer_has_the_losses_of_our_own_run(folder: Path, tmp_path: Path, own_run: Any) -> None:
    losses, batches, accumulate = own_run
    (line,) = (line for line in block(PAGE, "compute_loss_func=").splitlines() if "compute_loss_func=" in line)
    (option,) = re.findall(r"compute_loss_func=(partial\(.*?\))\)", line)
    loss = run(f"found = {option}", partial=partial, talr_loss=talr_loss)["found"]
    arguments = transformers.TrainingArguments(**their_arguments(tmp_path, accumulate))
    theirs = their_losses(transformers.Trainer, arguments, folder, batches, accumulate, compute_loss_func=loss)
    assert len(theirs) == len(losses) == 10
    assert theirs == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_trls_trainer_has_the_losses_of_our_own_run(folder: Path, tmp_path: Path, own_run: Any) -> None:
    trl = pytest.importorskip("trl")
    losses, batches, accumulate = own_run
    trainer_class = run(block(PAGE, "class TALRTrainer"))["TALRTrainer"]
    extra = {"dataset_kwargs": {"skip_prepare_dataset": True}, "loss_type": "nll", "gradient_checkpointing": False, "bf16": False}
    arguments = trl.SFTConfig(**their_arguments(tmp_path, accumulate), **extra)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    theirs = their_losses(trainer_class, arguments, folder, batches, accumulate, processing_class=tokenizer)
    assert len(theirs) == len(losses) == 10
    assert theirs == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_a_notebook_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    code = adapted(block(PAGE, "Clinic("), {"logger=False": f"logger=False, default_root_dir={json.dumps(str(tmp_path))}"})
    trainer = run(code)["trainer"]
    assert trainer.global_step == 4
    assert f"{float(trainer.callback_metrics['val/nll']):.3f} nats per token" in capsys.readouterr().out
