"""What happens to a run from outside must not lose it."""

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.checkpoint.find import check_strategy, last_checkpoint, why_not_whole
from lit_talr.cli.command_line import main
from lit_talr.cli.run_folder import lock_run
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy
from lit_talr.utils.manifest import MANIFEST, write_manifest
from tests.helpers.fits import write_data

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "lit_talr")  # for what must not happen in the process of the tests
ONE_PROCESS = ("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1")


def words(folder: Path, run: str, where: Sequence[str] = ONE_PROCESS) -> list[str]:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    return [
        *("fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr-step.yaml", *files, "--run", str(folder / run)),
        *("--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--model.optimizer.lr", "1e-2"),
        *("--data.batching.batch_size", "4", "--data.batching.micro_batch_size", "2", "--trainer.max_epochs", "2", *where),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_told_to_end_it_keeps_the_step_and_goes_on_bitwise(tmp_path: Path) -> None:
    write_data(tmp_path)
    main(words(tmp_path, "whole"))
    slow = ["--trainer.callbacks+", '{"class_path": "tests.training.test_faults.Slow"}']
    command = [*COMMAND, *words(tmp_path, "ended"), *slow]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started, waited = tmp_path / "ended" / "started", 0.0
    while not started.exists() and waited < 120:
        time.sleep(0.2)
        waited += 0.2
    assert started.exists()
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, error[-3000:]
    assert re.search(r"Stopped after step \d; the same line with `--ckpt_path auto` continues from the newest checkpoint", error)
    assert "lit-talr:" not in error  # said once
    assert list((tmp_path / "ended" / "checkpoints").glob("last-step=*.ckpt"))
    main([*words(tmp_path, "ended"), "--ckpt_path", "last"])
    assert (tmp_path / "whole" / "export" / "model.safetensors").read_bytes() == (tmp_path / "ended" / "export" / "model.safetensors").read_bytes()
    steps = [[event.step for event in EventAccumulator(str(tmp_path / run)).Reload().Scalars("train/loss")] for run in ("whole", "ended")]
    assert steps[0] == steps[1] == list(range(len(steps[0])))


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    main(words(tmp_path, "full"))
    checkpoints = tmp_path / "full" / "checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    more = [*words(tmp_path, "full"), "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    more.remove("2")  # of the first --trainer.max_epochs
    more.remove("--trainer.max_epochs")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(map(len, before.values())) - 1000, hard))  # no file may become larger
    try:
        with pytest.raises(SystemExit) as stop:
            main(more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stop.value.code == 1
    assert "could not be written" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before
    main(more)
    assert (checkpoints / "last-step=15.ckpt").is_file()


def test_a_second_run_into_the_folder_is_refused(tmp_path: Path) -> None:
    with lock_run(tmp_path / "run"), pytest.raises(ValueError, match="another run is writing into"):
        lock_run(tmp_path / "run")
    lock_run(tmp_path / "run").close()


def checkpoint(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    for rank in range(2):
        (path / f"rank{rank}").write_text(f"{text} {rank}")
    write_manifest(path)
    return path


def test_last_is_the_newest_whole_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = checkpoint(tmp_path / "checkpoints" / "best-step=4.ckpt", "four")
    new = checkpoint(tmp_path / "checkpoints" / "last-step=10.ckpt", "ten!")
    assert last_checkpoint(tmp_path) == new and not caplog.text
    (new / "rank1").write_bytes((old / "rank1").read_bytes())  # of an older step, as long as the right one
    assert why_not_whole(new) == "has another rank1 than was written"
    assert last_checkpoint(tmp_path) == old and "has another rank1" in caplog.text
    (new / "rank1").unlink()
    assert why_not_whole(new) == "lacks rank1"
    (new / MANIFEST).unlink()
    assert f"has no {MANIFEST}" in str(why_not_whole(new))


@pytest.mark.slow
def test_a_data_worker_that_dies_is_one_sentence(tmp_path: Path) -> None:
    write_data(tmp_path)
    killer = ["--data.batching.num_workers", "1", "--trainer.callbacks+", '{"class_path": "tests.training.test_faults.KillWorkers"}']
    done = subprocess.run([*COMMAND, *words(tmp_path, "run"), *killer], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lit-talr: a process that prepares batches (`data.batching.num_workers`) has died" in done.stderr
    main([*words(tmp_path, "run"), "--ckpt_path", "last"])


class KillWorkers(Callback):
    """In the second epoch, all that prepare batches."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)


class Slow(Callback):
    """Says that the second step has begun, and takes its time."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            Path(trainer.default_root_dir, "started").touch()
            time.sleep(0.5)


@pytest.mark.parametrize(
    ("files", "stage", "num_ranks", "precision", "sentence"),
    [
        (["model.pt"], 2, 2, "32-true", "is a checkpoint of FSDP2"),
        (["latest", "checkpoint/mp_rank_00_model_states.pt"], 3, 2, "32-true", "is a checkpoint of ZeRO-1 or ZeRO-2"),
        (["latest", "checkpoint/zero_pp_rank_0_mp_rank_00_model_states.pt"], 2, 2, "32-true", "is a checkpoint of ZeRO-3"),
        (["latest", "checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt"], 2, 2, "32-true", r"was written by 1 rank\(s\)"),
        (["latest", "checkpoint/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], 2, 1, "32-true", "in another precision than 32-true"),
        (["latest", "checkpoint/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], 1, 1, "bf16-mixed", None),
    ],
)
def test_a_checkpoint_that_the_strategy_cannot_read_is_refused(
    tmp_path: Path, files: list[str], stage: Any, num_ranks: int, precision: str, sentence: str | None
) -> None:
    (tmp_path / "checkpoint").mkdir()
    for file in files:
        (tmp_path / file).touch()
    trainer: Any = SimpleNamespace(strategy=DeepSpeedCPUStrategy(stage), world_size=num_ranks, precision=precision)
    with pytest.raises(ValueError, match=sentence) if sentence else contextlib.nullcontext():
        check_strategy(tmp_path, trainer)
