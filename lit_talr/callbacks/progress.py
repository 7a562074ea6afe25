"""The course of a run: a progress bar on a terminal, lines for a log elsewhere."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console
from rich.console import Console
from torch import Tensor

from lit_talr.data.encoded import Batch
from lit_talr.module import DomainSFT
from lit_talr.training.monitors import is_measured_now
from lit_talr.utils.errors import check_in
from lit_talr.utils.progress import can_draw, print_line


class TokenProgressBar(RichProgressBar):
    """Lightning's progress bar with the throughput on a terminal; in a file or a pipe, lines that tell the course of the run.

    A line has time, epoch and step, the mean loss and the tokens per second since the line before, the learning rate, and the time left at the pace so
    far. One is printed wherever validation ends, with its scores, wherever an epoch ends, and every few minutes. A terminal shows only those with scores,
    above the bar. Only rank 0 prints. Throughput counts the tokens of this rank without padding, times the number of ranks.

    Args:
        every_n_minutes: Minutes between two lines in a file or a pipe, above 0.

    Raises:
        ValueError: For a number of minutes that is not above 0.
    """

    def __init__(self, every_n_minutes: float = 5) -> None:
        check_in("every_n_minutes", every_n_minutes, "(0, inf)")
        super().__init__(leave=False)
        self.every_n_minutes = every_n_minutes
        self._draws = True  # whether there is a terminal, or a notebook, to draw a bar on
        self._origin: tuple[float, int] | None = None  # time and step at which training began or was resumed
        self._line_time, self._line_step = time.monotonic(), -1
        self._start_interval()

    def _start_interval(self) -> None:
        """Forgets the loss and the tokens of the steps so far."""
        self._tokens = self._num_losses = 0
        self._started = self._ended = 0.0
        self._loss: Tensor | float = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether a bar is drawn."""
        return super().is_enabled and self._draws

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._draws = can_draw(Console())
        self._line_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._origin, self._line_step = None, -1
        self._start_interval()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._start_interval()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if not self._tokens:
            self._started = time.monotonic()
        if self._origin is None:
            self._origin = self._started, trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        self._tokens += batch["num_tokens"] * trainer.world_size
        self._ended = time.monotonic()
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not pl_module.guard.skips:
            self._loss, self._num_losses = self._loss + trainer.callback_metrics["train/loss"], self._num_losses + 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and self.is_due():
            self.print_progress(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.print_progress(trainer, pl_module, scored=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        super().on_train_epoch_end(trainer, pl_module)
        if not self.is_enabled and self._line_step != trainer.global_step:
            self.print_progress(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self.is_due():
            self.say(f"validation: batch {batch_idx + 1:,} of {trainer.num_val_batches[dataloader_idx]:,}")

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self.is_due():
            self.say(f"test: batch {batch_idx + 1:,} of {trainer.num_test_batches[dataloader_idx]:,}")

    def is_due(self) -> bool:
        """Whether the last line is old enough for another; never where there is a bar."""
        return not self.is_enabled and time.monotonic() - self._line_time >= 60 * self.every_n_minutes

    def print_progress(self, trainer: Trainer, module: DomainSFT, scored: bool = False) -> None:
        """Prints how far the run is, and with ``scored`` what validation has just measured."""
        numbers = ", ".join(self.training_numbers(trainer, module))
        values = ", ".join(score_texts(trainer, module)) if scored else ""
        self.say(": ".join(filter(None, [position(module, trainer.global_step), "; ".join(filter(None, [numbers, values]))])))
        self._line_step = trainer.global_step
        self._start_interval()

    def training_numbers(self, trainer: Trainer, module: DomainSFT) -> Iterator[str]:
        """The numbers of the steps since the line before; none before the first step."""
        if not self._num_losses or self._origin is None:
            return
        yield f"loss {float(self._loss) / self._num_losses:.4g}"
        yield from (f"{name} {value:.4g}" for name, value in self.get_metrics(trainer, module).items() if name == "temperature")
        yield f"rate {float(trainer.callback_metrics['train/learning_rate']):.3g}"
        yield f"{self._tokens / (self._ended - self._started):,.0f} tokens/s"
        began, first_step = self._origin
        step = trainer.global_step
        yield f"{timedelta(seconds=round((time.monotonic() - began) / (step - first_step) * (module.num_steps - step)))} left"

    def say(self, text: str) -> None:
        """Prints a line."""
        self._line_time = time.monotonic()
        if self._enabled:  # on rank 0, unless Lightning only tries something out
            print_line(text, get_console())

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        return super().configure_columns(trainer)[:-1]  # drops batches per second, to fit 80 characters

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = {name.removeprefix("train/").removeprefix("talr/"): value for name, value in super().get_metrics(trainer, pl_module).items()}
        shown.pop("v_num", None)
        if trainer.training and self._tokens:
            shown["tokens/s"] = f"{self._tokens / (time.monotonic() - self._started):,.0f}"
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        """Counts epochs from 1, and as many as the run has."""
        module = self.trainer.lightning_module
        assert isinstance(module, DomainSFT)
        return f"Epoch {current_epoch + 1}/{num_epochs(module)}".ljust(len(self.validation_description))


def score_texts(trainer: Trainer, module: DomainSFT) -> list[str]:
    """The scores of the present weights with their standard errors, validation's first; the parts of a score (val/accuracy/easy) are left to the loggers."""
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if is_measured_now(module, name)}
    names = [name for name in scores if name.count("/") == 1 and not name.endswith(("_se", "/num_examples"))]
    errors = {name: f" ± {scores[f'{name}_se']:.2g}" for name in names if f"{name}_se" in scores}
    return [f"{name} {scores[name]:.4g}{errors.get(name, '')}" for name in sorted(names, key=lambda name: not name.startswith("val/"))]


def position(module: DomainSFT, step: int) -> str:
    """Epoch and step, both from 1."""
    epoch = max(1, -(-step // module.plan.steps_per_epoch))
    return f"epoch {epoch}/{num_epochs(module)}, step {step:,}/{module.num_steps:,}"


def num_epochs(module: DomainSFT) -> int:
    """Epochs of the whole run, counting one that the run ends inside."""
    return -(-module.num_steps // module.plan.steps_per_epoch)
