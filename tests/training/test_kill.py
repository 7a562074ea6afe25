"""A run that is killed outright and resumed ends with the weights of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.checkpoint import whole
from lit_talr.cli.command_line import main
from lit_talr.utils.locks import is_free
from tests.helpers.fits import write_data

ROOT = Path(__file__).parents[2]


class Kill(Callback):
    """No handler, no clean-up: inside the second epoch, when three of its six micro-batches are done."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)


class KillInCheckpoint(Callback):
    """When the checkpoint of the second epoch is written, but not yet in its place."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            whole.synchronise = lambda path: os.kill(os.getpid(), signal.SIGKILL)


KILLS = [("rho1", "Kill"), ("flow", "Kill"), ("talr-step", "KillInCheckpoint"), ("l2", "KillInCheckpoint")]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "killer"), KILLS)
def test_killed_and_resumed_is_bitwise_uninterrupted(tmp_path: Path, loss: str, killer: str) -> None:
    write_data(tmp_path)
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / f"{split}.jsonl"))]
    words = [
        *("fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", f"configs/loss/{loss}.yaml", *files),
        *("--model.pretrained", str(tmp_path / "model"), "--model.tokenizer", str(tmp_path / "tokenizer"), "--model.optimizer.lr", "1e-2"),
        *("--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "4", "--trainer.max_epochs", "3"),
        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    ]
    main([*words, "--run", str(tmp_path / "whole")])
    kill = json.dumps({"class_path": f"tests.training.test_kill.{killer}"})
    command = [sys.executable, "-m", "lit_talr", *words, "--run", str(tmp_path / "killed"), "--trainer.callbacks+", kill]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not (tmp_path / "killed" / "export").exists()
    assert any((tmp_path / "killed" / "checkpoints").glob(".*.part")) == (killer == "KillInCheckpoint")
    main([*words, "--run", str(tmp_path / "killed"), "--ckpt_path", "last"])
    files_of = [(tmp_path / name / "export" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    whole, resumed = (EventAccumulator(str(tmp_path / name)).Reload() for name in ("whole", "killed"))
    for tag in whole.Tags()["scalars"]:  # each step once
        assert [event.step for event in whole.Scalars(tag)] == [event.step for event in resumed.Scalars(tag)], tag
    assert load_file(tmp_path / "killed" / "export" / "model.safetensors")
    assert files_of[0] == files_of[1]


@pytest.mark.slow
def test_the_folder_of_a_killed_run_is_free_at_once_although_its_loader_workers_live_on(tmp_path: Path) -> None:
    write_data(tmp_path)
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / f"{split}.jsonl"))]
    words = [
        *("fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/standard.yaml", *files, "--run", str(tmp_path / "run")),
        *("--model.pretrained", str(tmp_path / "model"), "--model.tokenizer", str(tmp_path / "tokenizer"), "--data.batching.num_workers", "2"),
        *("--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "4", "--trainer.max_epochs", "3"),
        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
        *("--trainer.callbacks+", json.dumps({"class_path": "tests.training.test_kill.Kill"})),
    ]
    quiet, environment = subprocess.DEVNULL, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "lit_talr", *words], cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, timeout=200)
    assert done.returncode == -signal.SIGKILL and (tmp_path / "run" / ".lock").exists()
    assert is_free(tmp_path / "run" / ".lock")
