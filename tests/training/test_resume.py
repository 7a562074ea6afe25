"""A run that was stopped and resumed ends with the weights of one that was not."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lit_talr.losses import L2, TALR, Standard
from lit_talr.modeling.generation import Generation
from lit_talr.module import DomainSFT
from lit_talr.training.resume import LAYOUT, MAY_DIFFER, check_options
from lit_talr.training.schedules import Constant, Cosine, Linear, Schedule
from tests.helpers.fits import LORA, LOSSES, QWEN3, SGD, distance, fit
from tests.helpers.params import first_is_fast

ADAMW = partial(torch.optim.AdamW, lr=0.01)


def module(other: Schedule, resume_with: Sequence[str], *words: Any, **options: Any) -> DomainSFT:
    """A module of another schedule, or with changes on purpose."""
    made = DomainSFT(*words, **{**options, "schedule": other})
    made.record.resume_with = resume_with
    return made


def long(*words: Any, **options: Any) -> DomainSFT:
    return DomainSFT(*words, **options, generation=Generation(max_new_tokens=7))


def two_groups(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    first, *rest = parameters
    return torch.optim.SGD([{"params": [first]}, {"params": rest, "lr": 0.1}], lr=0.3)


WARM, LONG = partial(module, Constant(warmup_ratio=0.5), ()), long
WITHOUT_VALIDATION = partial(module, Constant(), ["trainer.limit_val_batches"])


@pytest.mark.parametrize(
    ("name", "optimizer", "stop", "micro_batch_size"),
    [
        ("standard", ADAMW, 6, 4),  # between two epochs
        ("talr-step", SGD, 4, 4),  # inside one
        ("l2", ADAMW, 4, 4),
    ],
)
def test_resumed_is_bitwise_uninterrupted(folder: Path, tmp_path: Path, name: str, optimizer: object, stop: int, micro_batch_size: int) -> None:
    """An epoch has three steps of two micro-batches."""
    options: dict[str, Any] = {"optimizer": optimizer, "batching": {"micro_batch_size": micro_batch_size}}
    whole = fit(folder, LOSSES[name](), steps=8, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1)
    fit(folder, LOSSES[name](), steps=stop + 1, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, LOSSES[name](), steps=8, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("steps", "trainer"),
    [
        (3, {}),  # saved after the validation at the end of an epoch
        (4, {}),  # after the one where the run ended, inside an epoch
        (5, {"val_check_interval": 3}),  # after one inside a step of two micro-batches
    ],
    ids=["epoch end", "end of the run", "inside a step"],
)
@pytest.mark.parametrize("without", first_is_fast(False, True), ids=["", "without validation"])
def test_checkpoints_of_validation_resume_too(folder: Path, tmp_path: Path, steps: int, trainer: dict[str, Any], without: bool) -> None:
    batching = {"micro_batch_size": 4}
    whole = fit(folder, Standard(), steps=8, optimizer=ADAMW, batching=batching)
    keep = ModelCheckpoint(dirpath=tmp_path, monitor="val/nll", save_top_k=-1, save_last=False)
    options = {"enable_checkpointing": True, "callbacks": [keep], "limit_val_batches": None, **trainer}
    fit(folder, Standard(), steps=steps, optimizer=ADAMW, batching=batching, trainer=options)
    checkpoint = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    resume: dict[str, Any] = {"ckpt_path": str(checkpoint), "trainer": {"limit_val_batches": 0 if without else None}}
    resumed = fit(folder, Standard(), 8, WITHOUT_VALIDATION if without else DomainSFT, optimizer=ADAMW, batching=batching, **resume)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize("stop", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("micro_batch_size", first_is_fast(8, 1))
def test_a_run_can_go_on_in_another_layout(folder: Path, tmp_path: Path, stop: int, micro_batch_size: int) -> None:
    whole = fit(folder, LOSSES["talr-step"](), steps=8, batching={"micro_batch_size": 4})
    start = fit(folder, Standard(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=stop, save_top_k=-1)
    options = {"enable_checkpointing": True, "callbacks": [keep]}
    fit(folder, LOSSES["talr-step"](), steps=stop, batching={"micro_batch_size": 4}, trainer=options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, LOSSES["talr-step"](), steps=8, batching={"micro_batch_size": micro_batch_size}, ckpt_path=str(checkpoint))
    assert distance(resumed, whole, start) < 1e-10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": Standard()}, "The checkpoint is of another run: its model.loss is L2, here Standard; .*`--resume_with model.loss=lit_talr.losses.*Standard`"),
        ({"loss": L2(Standard(), coefficient=0.1)}, "its model.loss.coefficient is 0.05, here 0.1"),
        ({"loss": L2(TALR(), coefficient=0.05)}, "its model.loss.loss is Standard, here TALR"),
        ({"optimizer": ADAMW}, "its model.optimizer is SGD, here AdamW"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, "its model.optimizer.lr is 0.3, here 0.1"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.3, momentum=0.9)}, "its model.optimizer.momentum is 0, here 0.9"),
        ({"optimizer": two_groups}, r"its model.optimizer.lr is 0.3, here \[0.3,0.1\]"),
        ({"module_class": WARM}, "its model.schedule.warmup_ratio is 0.0, here 0.5"),
        ({"module_class": LONG}, "its model.generation.max_new_tokens is 1024, here 7"),
        ({"batching": {"batch_size": 4}}, "its data.batching.batch_size is 8, here 4"),
        ({"batching": {"seed": 1}}, "its data.batching.seed is 0, here 1"),
        ({"trainer": {"gradient_clip_val": 0.5}}, "its trainer.gradient_clip_val is null, here 0.5"),
        ({"trainer": {"precision": "32-true"}}, "its trainer.precision is 64-true, here 32-true"),
        ({"trainer": {"limit_val_batches": 1}}, "its trainer.limit_val_batches is 0, here 1"),
        ({"loss": Standard(), "adapter": LORA}, "its model.adapter is null, here LoRA; resume with what it was started with, or start a new run"),
        ({"architecture": {**QWEN3, "num_hidden_layers": 1}}, "The checkpoint is of another model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(folder: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(folder, LOSSES["l2"](), steps=1, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = tmp_path.glob("*.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(folder, steps=2, ckpt_path=str(checkpoint), **{"loss": LOSSES["l2"](), **changed})


@pytest.mark.slow
def test_dropout_is_that_of_the_uninterrupted_run(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"architecture": {**QWEN3, "attention_dropout": 0.3}, "batching": {"micro_batch_size": 4}}
    whole = fit(folder, Standard(), steps=5, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    fit(folder, Standard(), steps=2, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, Standard(), steps=5, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    without = fit(folder, Standard(), steps=5, batching={"micro_batch_size": 4})
    assert not all(torch.equal(without[key], whole[key]) for key in whole)


@pytest.mark.slow
def test_deterministic_runs_are_bitwise_equal(folder: Path) -> None:
    once, again = (fit(folder, LOSSES["talr-step"](), steps=4, trainer={"deterministic": True, "precision": "32-true"}) for _ in range(2))
    assert all(torch.equal(once[key], again[key]) for key in once)


class Rates(Callback):
    """Keeps the rate of every step as it is logged, and the optimizer's group."""

    def __init__(self) -> None:
        self.logged: dict[int, float] = {}
        self.group: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if "train/learning_rate" not in trainer.callback_metrics:
            return  # inside the first step
        self.logged[trainer.global_step - 1] = float(trainer.callback_metrics["train/learning_rate"])
        self.group = {**trainer.optimizers[0].param_groups[0], "moment": trainer.optimizers[0].state_dict()["state"][0]["exp_avg"].clone()}


@pytest.mark.parametrize("schedule", first_is_fast(Cosine(warmup_ratio=0.3), Linear()))
def test_each_step_of_an_extended_run_has_the_rate_of_its_schedule(folder: Path, tmp_path: Path, schedule: Schedule) -> None:
    """A finished run, whose last rate was 0, goes on; then a longer one ends earlier."""
    keep, make = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1), partial(module, schedule, ())
    fit(folder, Standard(), 5, make, ADAMW, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = tmp_path.glob("*step=5.ckpt")
    for steps in (9, 7):
        rates = Rates()
        fit(folder, Standard(), steps, make, ADAMW, ckpt_path=str(checkpoint), trainer={"callbacks": [rates]})
        assert rates.logged == pytest.approx({step: 0.01 * schedule.factor(step, steps) for step in range(5, steps)}, rel=1e-6)
        assert all(rate > 0 for rate in rates.logged.values())


def test_a_change_on_purpose_takes_effect_and_keeps_the_moments(folder: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1)
    fit(folder, Standard(), 3, DomainSFT, ADAMW, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = tmp_path.glob("*.ckpt")
    seen, same = Rates(), Rates()
    now = partial(torch.optim.AdamW, lr=0.05, betas=(0.9, 0.9), weight_decay=0.3)
    names = [f"model.optimizer.{name}" for name in ("lr", "betas", "weight_decay")]
    changed = fit(folder, Standard(), 4, partial(module, Constant(), names), now, ckpt_path=str(checkpoint), trainer={"callbacks": [seen]})
    unchanged = fit(folder, Standard(), 4, DomainSFT, ADAMW, ckpt_path=str(checkpoint), trainer={"callbacks": [same]})
    assert (seen.group["lr"], seen.group["initial_lr"], seen.group["betas"], seen.group["weight_decay"]) == (0.05, 0.05, (0.9, 0.9), 0.3)
    assert torch.equal(seen.group["moment"], same.group["moment"])  # of the first beta, which is that of the run
    assert not all(torch.equal(changed[name], unchanged[name]) for name in changed)


@pytest.mark.parametrize("name", [name for name, reason in MAY_DIFFER.items() if reason == LAYOUT])
def test_the_layout_may_differ_unless_the_loss_depends_on_it(name: str) -> None:
    check_options({name: 1}, {name: 2})
    with pytest.raises(ValueError, match=f"its {name} is 1, here 2 .TALR depends on how a step is split."):
        check_options({name: 1}, {name: 2}, split_matters="TALR")


def test_many_differences_are_counted() -> None:
    names = [f"model.option{number}" for number in range(8)]
    with pytest.raises(ValueError, match="its model.option4 is 1, here 2; and 3 more; resume with"):
        check_options(dict.fromkeys(names, 1), dict.fromkeys(names, 2))


def test_a_command_line_and_python_compare_what_both_know() -> None:
    line = {"seed_everything": 0, "trainer.plugins": "x", "model.loss": "a.A"}
    check_options(line, {"model.loss": "a.A"})
    with pytest.raises(ValueError, match="its model.loss is A, here B"):
        check_options(line, {"model.loss": "a.B"})


def test_a_checkpoint_without_a_configuration_is_refused(folder: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(folder, Standard(), steps=1, trainer={"enable_checkpointing": True, "callbacks": [keep]})
    (checkpoint,) = tmp_path.glob("*.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    del content["configuration"]
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match="The checkpoint does not say which run it is of"):
        fit(folder, Standard(), steps=2, ckpt_path=str(checkpoint))


def test_the_page_on_running_lists_what_may_differ() -> None:
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")
    table = page.split("| what may differ | why |")[1].split("\n## ")[0]
    named = set(re.findall(r"`([\w.]+)`", table))
    assert [name for name in MAY_DIFFER if not {name, name.rpartition(".")[2]} & named and name != "resume_with"] == []
