"""The logs of a run that goes on."""

import time
from pathlib import Path

import pandas as pd
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.cli.logs import continue_logs, wait_for_next_second


def log(run: Path, command: str, checkpoint: str | None, numbers: dict[int, dict[str, float]], board: Path | None = None) -> None:
    """Logs numbers by step, as a command does that begins with a checkpoint."""
    loggers = [CSVLogger(run, "csv", ""), TensorBoardLogger(board or run, "", "")]
    trainer = Trainer(accelerator="cpu", default_root_dir=run, logger=loggers, enable_progress_bar=False)
    continue_logs(trainer, command, checkpoint)
    for logger in loggers:
        for step, values in numbers.items():
            logger.log_metrics(values, step)
        logger.finalize("success")


def test_a_continued_run_keeps_its_numbers_and_hides_those_that_are_logged_again(tmp_path: Path) -> None:
    log(tmp_path, "fit", None, {0: {"loss": 9.0}, 1: {"loss": 8.0}, 2: {"loss": 7.0}})
    log(tmp_path, "fit", "checkpoints/last-step=2.ckpt", {2: {"loss": 6.0}, 3: {"loss": 5.0, "nll": 1.0}})
    log(tmp_path, "test", "checkpoints/last-step=4.ckpt", {0: {"score": 1.0}})
    table = pd.read_csv(tmp_path / "csv" / "metrics.csv")
    assert table["loss"].dropna().tolist() == [9, 8, 7, 6, 5] and table["nll"].count() == table["score"].count() == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 9), (1, 8), (2, 6), (3, 5)] and events.Scalars("score")


def test_a_start_forgets_the_numbers_of_a_start_that_died(tmp_path: Path) -> None:
    log(tmp_path, "fit", None, {0: {"loss": 9.0}, 1: {"loss": 8.0}})
    log(tmp_path, "fit", None, {0: {"loss": 7.0}})
    assert pd.read_csv(tmp_path / "csv" / "metrics.csv")["loss"].tolist() == [7]
    assert [event.value for event in EventAccumulator(str(tmp_path)).Reload().Scalars("loss")] == [7]


def test_a_start_hides_nothing_of_other_runs_in_a_shared_folder(tmp_path: Path) -> None:
    for name, loss in (("a", 9.0), ("b", 8.0)):
        log(tmp_path / name, "fit", None, {0: {"loss": loss}}, tmp_path / "board")
    assert [event.value for event in EventAccumulator(str(tmp_path / "board")).Reload().Scalars("loss")] == [9, 8]


def test_events_of_a_continued_run_come_after_those_before(tmp_path: Path) -> None:
    """Also where it continues within the second; a clock that was ahead is not waited for."""
    for second, waits in ((int(time.time()), True), (int(time.time()) + 3600, False)):
        (tmp_path / f"events.out.tfevents.{second}.host.1.0").touch()
        began = time.time()
        wait_for_next_second(tmp_path)
        assert time.time() >= second + 1 if waits else time.time() < began + 0.5
