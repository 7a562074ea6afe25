"""Lets the loggers of a run go on where the run does: nothing is lost, and TensorBoard shows nothing twice."""

import csv
import time
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lit_talr.checkpoint.find import step_of


class AppendingWriter(ExperimentWriter):
    """Appends to ``metrics.csv``; Lightning's own writer deletes the file of an earlier command."""

    def _check_log_dir_exists(self) -> None:
        if (path := Path(self.metrics_file_path)).is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


def continue_logs(trainer: Trainer, command: str, checkpoint: str | None) -> None:
    """Prepares the loggers before they write anything.

    Args:
        trainer: With its loggers.
        command: ``fit``, ``validate`` or ``test``.
        checkpoint: The one that the command begins with.
    """
    run = Path(trainer.default_root_dir).resolve()
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and command == "fit" and Path(logger.log_dir).resolve().is_relative_to(run):
            logger._kwargs["purge_step"] = step_of(Path(checkpoint)) if checkpoint else 0  # hides later entries, which are logged again
            wait_for_next_second(Path(logger.log_dir))
        if isinstance(logger, CSVLogger) and (command != "fit" or checkpoint) and trainer.is_global_zero:
            logger._experiment = AppendingWriter(logger.log_dir)


def wait_for_next_second(folder: Path) -> None:
    """Lets a continued run's events come after those before: TensorBoard reads files in the order of their names, which have the second of their start."""
    newest = max((int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.*")), default=0)
    if int(time.time()) == newest:
        time.sleep(newest + 1 - time.time())
