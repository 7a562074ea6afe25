"""A run is continued with every option as it was, or otherwise on purpose."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from lit_talr.cli.command_line import main
from lit_talr.cli.lightning_cli import run_lightning
from lit_talr.module import DomainSFT
from lit_talr.training.configuration import flatten, module_options, optimizer_options, trainer_options
from lit_talr.training.resume import MAY_DIFFER, check_options, differences, why_may_differ
from tests.helpers.fits import write_data

SAME = {"trainer.limit_train_batches", "trainer.overfit_batches", "trainer.fast_dev_run", "trainer.accumulate_grad_batches"}
"""Options of which any other value is refused before a checkpoint is looked at."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch of three steps, and its data."""
    folder = tmp_path_factory.mktemp("started")
    write_data(folder)
    main(["fit", *options(folder), "--trainer.max_epochs", "1"])
    return folder


def options(folder: Path, run: str = "run") -> list[str]:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    return [
        *("-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml", *files, "--run", str(folder / run)),
        *("--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--model.optimizer.lr", "1e-3"),
        *("--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "4", "--trainer.precision", "32-true"),
        *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    ]


@pytest.fixture
def folder(started: Path, tmp_path: Path) -> Path:
    """A copy of the run, next to the same data."""
    shutil.copytree(started, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *options(folder), "--trainer.max_epochs", "2", *words])
    error = capsys.readouterr().err
    assert error.startswith("lit-talr: ") and error.count("\n") == 1, error
    return error


def resume(folder: Path, *words: str) -> None:
    main(["fit", *options(folder), "--trainer.max_epochs", "2", "--ckpt_path", "last", *words])


def optimizer_group(folder: Path) -> dict[str, Any]:
    (last,) = (folder / "run" / "checkpoints").glob("last-*.ckpt")
    return torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.optimizer.lr", "5e-2"], "its model.optimizer.lr is 0.001, here 0.05; resume with what it was started with, change it on purpose with "),
        (["--data.batching.micro_batch_size", "2"], "its data.batching.micro_batch_size is 4, here 2 (TALR depends on how a step is split)"),
        (["--model.loss.floor", "0.5"], "its model.loss.floor is 0.01, here 0.5"),
        (["--trainer.limit_val_batches", "1"], "its trainer.limit_val_batches is 1.0, here 1"),
        (["--data.train", "REVERSED"], "its training rows (hash of their tokens) is "),
        (["--model.pretrained", "OTHER"], "its model.pretrained (hash of its weights) is "),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (["--model.optimizer.weight_decay", "0.1"], "its model.optimizer.weight_decay is 0.0, here 0.1"),
                (["--model.optimizer.betas", "[0.9,0.95]"], "its model.optimizer.betas is [0.9,0.999], here [0.9,0.95]"),
                (["--model.optimizer", "torch.optim.SGD"], "its model.optimizer is AdamW, here SGD; resume with what it was started with, or start a new run."),
                (["--model.schedule", "Linear"], "its model.schedule is Cosine, here Linear"),
                (["--model.schedule.warmup_ratio", "0.1"], "its model.schedule.warmup_ratio is 0.03, here 0.1"),
                (["--trainer.gradient_clip_val", "null"], "its trainer.gradient_clip_val is 1.0, here null"),
                (["--trainer.precision", "bf16-mixed"], "its trainer.precision is 32-true, here bf16-mixed"),
                (["--seed_everything", "1"], "its seed_everything is 0, here 1"),
                (["--data.batching.seed", "1"], "its data.batching.seed is 0, here 1"),
                (["--data.batching.batch_size", "4"], "its data.batching.batch_size is 8, here 4; resume with what it was started with, or start a new run."),
                (["--model.generation.max_new_tokens", "9"], "its model.generation.max_new_tokens is 1024, here 9"),
                (["--trainer.plugins", "[]"], "its trainer.plugins is null, here []"),
                (["--data.held_out", "0.5"], "its data.held_out is null, here 0.5"),
                (["--data.val", "REVERSED"], "its validation rows (hash of their tokens) is "),
            ]
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_was_not_the_run_is_refused_by_name(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    if words[1] == "REVERSED":
        rows = (folder / "train.jsonl").read_text().splitlines(keepends=True)[:: -1 if words[0] == "--data.train" else 1]
        (folder / "other.jsonl").write_text("".join(rows if words[0] == "--data.train" else rows[:5]))
        words = [words[0], str(folder / "other.jsonl")]
    if words[1] == "OTHER":
        shutil.copytree(folder / "model", folder / "other")
        config = json.loads((folder / "other" / "config.json").read_text())
        (folder / "other" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
        words = [words[0], str(folder / "other")]
    assert sentence in refused(capsys, folder, "--ckpt_path", "last", *words)
    assert not (folder / "run" / "config.resume-1.yaml").exists()


def test_several_differences_are_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.optimizer.lr", "5e-2", "--data.batching.batch_size", "4"]
    assert "; its model.optimizer.lr is 0.001, here 0.05; " in refused(capsys, folder, "--ckpt_path", "last", *words)


def test_moved_files_and_folders_continue(folder: Path) -> None:
    for name in ("model", "tokenizer", "train.jsonl", "val.jsonl"):
        shutil.move(folder / name, folder / f"moved-{name}")
    places = ["--model.pretrained", str(folder / "moved-model"), "--model.tokenizer", str(folder / "moved-tokenizer")]
    resume(folder, *places, "--data.train", str(folder / "moved-train.jsonl"), "--data.val", str(folder / "moved-val.jsonl"))
    assert (folder / "run" / "checkpoints" / "last-step=6.ckpt").exists()


@pytest.mark.slow
def test_a_change_on_purpose_is_used_and_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--resume_with", "model.optimizer.lr=5e-2", "--resume_with", "model.optimizer.betas=[0.8,0.9]", "--resume_with", "model.schedule=Constant"]
    plain = options(folder)
    del plain[plain.index("--model.optimizer.lr") :][:2]
    at = plain.index("--model.optimizer.lr")
    words = ["fit", *plain[:at], *plain[at + 2 :], "--trainer.max_epochs", "2", "--ckpt_path", "last"]
    main([*words, *changes])
    group = optimizer_group(folder)
    assert (group["lr"], group["initial_lr"], list(group["betas"])) == (0.05, 0.05, [0.8, 0.9])
    config = yaml.safe_load((folder / "run" / "config.resume-1.yaml").read_text())
    assert config["resume_with"] == ["model.optimizer.lr=5e-2", "model.optimizer.betas=[0.8,0.9]", "model.schedule=Constant"]
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.05
    fits = json.loads((folder / "run" / "provenance.json").read_text())["fits"]
    assert {"step": 3, "name": "model.optimizer.lr", "before": 0.001, "now": 0.05} in fits[1]["resume_with"]
    assert {change["name"] for change in fits[1]["resume_with"]} == {"model.optimizer.lr", "model.optimizer.betas", "model.schedule"}

    again = ["--trainer.max_epochs", "3"]
    main(["fit", "-c", str(folder / "run" / "config.resume-1.yaml"), "--ckpt_path", "last", *again])  # as a scheduler submits it again
    assert optimizer_group(folder)["lr"] == 0.05
    assert "its model.optimizer.lr is 0.05, here 0.001" in refused(capsys, folder, "--ckpt_path", "last", "--model.schedule", "Constant")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ckpt_path", "last", "--resume_with", "model.optimizer.weight_decay=0.0"], "changes nothing: the checkpoint's run has 0.0 too"),
        (["--ckpt_path", "last", "--resume_with", "model.optimizer.eps"], "takes NAME=VALUE with an option of `model`, `data` or `trainer`"),
        (["--ckpt_path", "last", "--resume_with", "run=elsewhere"], "takes NAME=VALUE with an option of `model`, `data` or `trainer`"),
        (["--ckpt_path", "last", "--resume_with", "model.optimizer.epsilon=1"], "'epsilon' is not accepted"),
        (["--ckpt_path", "last", "--resume_with", "trainer.max_epoch=1"], "--trainer.max_epoch"),
        (["--ckpt_path", "last", "--resume_with", "data.tokenizer=x"], "`--data.tokenizer` is not an option of its own"),
        (["--ckpt_path", "last", "--resume_with", "model.optimizer.lr=1"], "`model.optimizer.lr` is given twice, once in `--resume_with`"),
        (["--ckpt_path", "last", "--resume_with", "model.optimizer.amsgrad=true"], "cannot change a run that has begun: the optimizer's state"),
        (["--ckpt_path", "last", "--resume_with", "data.batching={batch_size: 4, micro_batch_size: 4}"], "the position in the data follows"),
        (["--ckpt_path", "last", "--resume_with", "data.held_out=0.5"], "cannot change a run that has begun: rows that it was trained on would be"),
        (
            ["--ckpt_path", "last", "--resume_with", 'model.adapter={"class_path": "LoRA"}'],
            "its model.adapter is null, here LoRA",
        ),
        (["--run", "other", "--resume_with", "model.optimizer.eps=1e-6"], "there is nothing to continue here; set the option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_change_that_cannot_be_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, folder, *words)


def test_a_test_takes_no_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["test", "--resume_with", "model.optimizer.lr=1"])
    assert "leave it out of `test`" in capsys.readouterr().err


class CapturedError(Exception):
    """Carries what a command line made."""

    def __init__(self, module: DomainSFT, trainer: Trainer) -> None:
        super().__init__()
        optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(2, 2))])  # type: ignore[arg-type]
        self.options = {**module.record.given, **module_options(module), **optimizer_options(optimizer), **trainer_options(trainer)}


def made(monkeypatch: pytest.MonkeyPatch, words: Sequence[str]) -> dict[str, Any]:
    """The options that a command line's objects have, without data."""

    def capture(module: DomainSFT, trainer: Trainer) -> None:
        raise CapturedError(module, trainer)

    monkeypatch.setattr(DomainSFT, "check", capture)
    with pytest.raises(CapturedError) as captured:
        run_lightning(words, words)
    return captured.value.options


CHANGED = {
    "seed_everything": "1",
    "trainer.max_epochs": "3",
    "trainer.precision": "bf16-mixed",
    "trainer.gradient_clip_val": "0.5",
    "trainer.gradient_clip_algorithm": "value",
    "trainer.log_every_n_steps": "2",
    "trainer.num_sanity_val_steps": "1",
    "trainer.enable_model_summary": "true",
    "trainer.callbacks": "[]",
    "trainer.limit_val_batches": "2",
    "trainer.val_check_interval": "2",
    "trainer.check_val_every_n_epoch": "2",
    "trainer.deterministic": "true",
    "trainer.sync_batchnorm": "true",
    "trainer.use_distributed_sampler": "false",
    "trainer.reload_dataloaders_every_n_epochs": "1",
    "trainer.max_steps": "7",
    "model.optimizer": "torch.optim.SGD",
    "model.optimizer.lr": "1",
    "model.optimizer.weight_decay": "0.1",
    "model.optimizer.betas": "[0.8,0.9]",
    "model.optimizer.eps": "1e-6",
    "model.optimizer.amsgrad": "true",
    "model.optimizer.maximize": "true",
    "model.optimizer.fused": "false",
    "model.schedule": "Constant",
    "model.schedule.warmup_ratio": "0.2",
    "model.loss": "DFT",
    "model.loss.floor": "0.5",
    "model.loss.scope": "step",
    "model.loss.temperature": "2",
    "model.generation.max_new_tokens": "9",
    "model.generation.temperature": "1",
    "model.compute.gradient_checkpointing": "true",
    "model.compute.attention": "eager",
    "model.non_finite.action": "skip",
    "model.bf16_weights": "true",
    "model.adapter": '{"class_path": "LoRA", "init_args": {"r": 2}}',
    "model.revision": "main",
    "model.tokenizer": "elsewhere",
    "data.batching.batch_size": "4",
    "data.batching.micro_batch_size": "2",
    "data.batching.seed": "1",
    "data.batching.num_workers": "1",
    "data.batching.eval_batch_size": "2",
    "data.train": "other.jsonl",
    "data.encoding.max_length": "77",
}
CONTENT = "rows are compared by their tokens"


@pytest.mark.slow
def test_each_of_many_changes_reaches_the_comparison(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the command line makes of an option, the comparison sees it; it is refused by name or listed."""
    assert len(CHANGED) >= 30
    words = ["fit", *options(started, "new")]
    base = made(monkeypatch, words)
    for name, value in CHANGED.items():
        changed = made(monkeypatch, [*words, f"--{name}={value}"])
        found = [change.name for change in differences(base, changed)]
        assert name in found, (name, found)
        if why_may_differ(name, invariant=False) is None:
            with pytest.raises(ValueError, match=f"its {name} is "):
                check_options(base, changed, split_matters="TALR")


def test_every_option_of_the_base_is_equal_or_listed(started: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All options of a configuration are in the checkpoint, and none of them can change unseen."""
    with pytest.raises(SystemExit):
        main(["fit", *options(started, "new"), "--print_config"])
    printed = flatten("", yaml.safe_load(capsys.readouterr().out))
    (last,) = (started / "run" / "checkpoints").glob("last-*.ckpt")
    stored = torch.load(last, weights_only=True)["configuration"]
    assert len(printed) > 100
    assert printed.keys() <= stored.keys()
    for name in stored:
        changed = {**stored, name: "changed"}
        if why_may_differ(name, invariant=False) is None:
            with pytest.raises(ValueError, match="The checkpoint is of another run"):
                check_options(stored, changed, split_matters="TALR")
        else:
            check_options(stored, changed, split_matters="TALR")


def test_what_may_differ_exists(started: Path) -> None:
    (last,) = (started / "run" / "checkpoints").glob("last-*.ckpt")
    stored = torch.load(last, weights_only=True)["configuration"]
    assert [name for name in MAY_DIFFER if not any(f"{option}.".startswith(f"{name}.") for option in stored)] == []
