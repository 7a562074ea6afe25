"""One line starts a run and goes on with it, wherever it died."""

import json
import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from lightning.pytorch import Callback, Trainer

from lit_talr.cli.command_line import main
from lit_talr.cli.run_folder import begin_run, lock_run
from tests.helpers.fits import write_data
from tests.helpers.params import first_is_fast
from tests.helpers.scores import read_values


class Fail(Callback):
    """An error of a user's own callback: inside the first step, or where the first epoch is over."""

    def __init__(self, where: str, full_disk: bool = False) -> None:
        self.where, self.full_disk = where, full_disk

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.fail("first step", batch_idx == 0)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.fail("second validation batch", batch_idx == 1)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.fail("validation", True)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.fail("epoch end", True)

    def on_fit_end(self, trainer: Trainer, *_: Any) -> None:
        if self.where == "export":
            mock.patch("lit_talr.callbacks.hf_export.write_manifest", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)).start()

    def fail(self, where: str, here: bool) -> None:
        if self.where == "interrupt" and where == "validation":
            raise KeyboardInterrupt
        if where == self.where and here:
            if self.full_disk:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            raise OSError(f"the {where} has failed.")


class Seen(Callback):
    """Keeps what each validation of a run measured, and in which epoch."""

    by_run: ClassVar[dict[str, dict[int, tuple[int, float]]]] = {}  # epoch and val/nll by step

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        measured = trainer.current_epoch + 1, float(trainer.callback_metrics["val/nll"])
        self.by_run.setdefault(trainer.default_root_dir, {})[trainer.global_step] = measured


BASE = """
trainer:
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - tests.cli.test_auto.Seen
    - Summary
    - HFExport
    - WholeCheckpoint
    - class_path: WholeCheckpoint
      init_args: {filename: "best-{epoch}-{step}", monitor: val/nll}
model:
  optimizer: AdamW
"""
"""The part of configs/base.yaml that this is about."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    (folder / "base.yaml").write_text(BASE)
    return folder


def words(data: Path, run: Path, *more: str) -> list[str]:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(data / f"{split}.jsonl"))]
    return [
        *("-c", str(data / "base.yaml"), "-c", "configs/data/records.yaml", "-c", "configs/loss/talr-step.yaml", *files, "--run", str(run)),
        *("--model.pretrained", str(data / "model"), "--model.tokenizer", str(data / "tokenizer"), "--model.optimizer.lr", "1e-2"),
        *("--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "1", "--trainer.max_epochs", "2"),
        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--trainer.devices", "1", *more),
    ]


@pytest.fixture(scope="module")
def uninterrupted(data: Path) -> Path:
    main(["fit", *words(data, data / "whole", "--ckpt_path", "auto")])
    return data / "whole"


def refused(capsys: pytest.CaptureFixture[str], args: Sequence[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("where", first_is_fast("second validation batch", "first step", "validation", "epoch end"))
def test_the_same_line_goes_on_where_a_run_died(data: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    run = tmp_path / "run"
    fit = ["fit", *words(data, run, "--ckpt_path", "auto")]
    fail = json.dumps({"class_path": "tests.cli.test_auto.Fail", "init_args": {"where": where}})
    assert f"the {where} has failed." in refused(capsys, [*fit, "--trainer.callbacks+", fail])
    assert (run / "config.yaml").is_file() and not (run / "export").exists()
    if where == "first step":
        assert not any((run / "checkpoints").glob("*.ckpt"))
        assert f"{run} already holds a run; `--ckpt_path auto` continues it" in refused(capsys, fit[:-2])
        assert "holds no checkpoint; start the run by `lit-talr fit` with `--ckpt_path auto`" in refused(capsys, [*fit[:-1], "last"])
    else:
        assert [path.name for path in (run / "checkpoints").glob("last-*")] == ["last-step=3.ckpt"]
    main(fit)
    assert ("Fail" in (run / "config.yaml").read_text()) == (where != "first step")  # a new start has a new configuration
    assert Seen.by_run[str(run)] == Seen.by_run[str(uninterrupted)], "all rows, in their epoch"
    assert names_in(run / "checkpoints") == names_in(uninterrupted / "checkpoints")
    assert (run / "export" / "model.safetensors").read_bytes() == (uninterrupted / "export" / "model.safetensors").read_bytes()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_living_run_refuses_the_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock_run(tmp_path / "run"):
        assert "another run is writing into" in refused(capsys, ["fit", *words(data, tmp_path / "run", "--ckpt_path", "auto")])


@pytest.mark.slow
@pytest.mark.parametrize(("where", "status"), [("interrupt", 1), ("export", 128 + signal.SIGTERM)])
def test_where_it_is_stopped_the_line_that_goes_on_is_said_once(
    data: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, status: int
) -> None:
    """By Ctrl-C, and by SIGTERM while the export is written."""
    run = tmp_path / "run"
    fit = ["fit", *words(data, run, "--ckpt_path", "auto")]
    callbacks = json.dumps(["Summary", {"class_path": "tests.cli.test_auto.Fail", "init_args": {"where": where}}, "HFExport", "WholeCheckpoint"])
    with pytest.raises(SystemExit) as stop:
        main([*fit, "--trainer.callbacks", callbacks])
    mock.patch.stopall()
    assert stop.value.code == status
    error = capsys.readouterr().err
    assert error.count("the same line with `--ckpt_path auto`") == 1 and "KeyboardInterrupt after" not in error, error
    assert not (run / "export").exists() and not (run / ".export.part").exists()
    main(fit)
    assert (run / "export" / "model.safetensors").read_bytes() == (uninterrupted / "export" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("checkpoint", [None, "checkpoints/last-step=3.ckpt"])
def test_a_run_that_has_just_ended_is_neither_overwritten_nor_continued_from_what_it_replaced(tmp_path: Path, checkpoint: str | None) -> None:
    """Another run held the folder while this one looked at the checkpoints, and has ended since."""
    (tmp_path / "checkpoints").mkdir()
    for file in ("config.yaml", "checkpoints/last-step=6.ckpt"):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match="another run has just written checkpoints into .*; give the same line again"):
        begin_run(tmp_path, checkpoint and str(tmp_path / checkpoint))
    assert (tmp_path / "config.yaml").is_file()


def test_an_error_is_not_hidden_by_its_checkpoint(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A callback fails, and the disk is too full for the checkpoint of that step."""
    fail = json.dumps({"class_path": "tests.cli.test_auto.Fail", "init_args": {"where": "validation", "full_disk": True}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        error = refused(capsys, ["fit", *words(data, tmp_path / "run", "--trainer.callbacks+", fail)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "OSError after step 3:" in error and "last-step=3.ckpt could not be written" in error
    assert error.endswith("lit-talr: the validation has failed.\n") and not any((tmp_path / "run" / "checkpoints").glob("last-*"))


def test_best_is_the_checkpoint_that_the_metric_chose(data: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (best,) = (uninterrupted / "checkpoints").glob("best-*")
    main(["validate", "-c", str(uninterrupted / "config.yaml"), "--ckpt_path", "best"])
    assert str(best) in capsys.readouterr().out.replace("\n", "")
    assert read_values(uninterrupted, "validate").keys() >= {"val/nll"}
    assert "`ckpt_path: best` is not for `fit`, which takes `auto`" in refused(capsys, ["fit", *words(data, uninterrupted, "--ckpt_path", "best")])
    assert "`ckpt_path: auto` is not for `test`, which takes `last`" in refused(capsys, ["test", *words(data, uninterrupted, "--ckpt_path", "auto")])
    assert "`ckpt_path: hpc` is not for `fit`" in refused(capsys, ["fit", *words(data, uninterrupted, "--ckpt_path", "hpc")])


def test_a_run_that_has_ended_is_not_started_again_without_its_checkpoints(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "export").mkdir(parents=True)
    assert "holds a run that has ended, but no checkpoint of it" in refused(capsys, ["fit", *words(data, tmp_path / "run", "--ckpt_path", "auto")])
