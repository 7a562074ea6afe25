"""Scores the answers that the model generates, and keeps every one of them."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import track

from lit_talr.callbacks.base import gather_rows, judge_responses, responses_file
from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.example import Split
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.generation import Response
from lit_talr.module import DomainSFT
from lit_talr.utils.files import write_bytes, write_json_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DomainScore(Callback):
    """Logs ``test/score`` and the domain's other metrics, and writes each answer to ``answers/test.jsonl`` of the run folder.

    ``test/cut`` is the share of answers cut by ``max_new_tokens``, ``test/unanswered`` that of prompts too long to be asked, which count as wrong.
    A metric's figure goes to ``answers/test.png`` and to TensorBoard. On validation likewise, where asked.

    Args:
        every_n_epochs: Also answer the validation rows after every so many epochs; never by default.

    Raises:
        ValueError: For a number of epochs below 1.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"`every_n_epochs` must be at least 1, or left out for never, got {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs
        self.metric: DomainMetric | None = None
        self.rows: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if stage == "test" or (stage == "fit" and self.every_n_epochs):
            pl_module.check_generation(trainer)

    def start(self, module: DomainSFT) -> None:
        self.metric = module.data.metric().to(module.device)
        self.rows = []

    def add(self, module: DomainSFT, split: Split, ids: Sequence[int], answers: Sequence[Response]) -> None:
        assert self.metric is not None
        self.rows += judge_responses(self.metric, ids, [module.data.kept[split][index] for index in ids], answers)

    def finish(self, trainer: Trainer, module: DomainSFT, split: Split, name: str) -> None:
        """Collective: every rank calls it."""
        assert self.metric is not None
        if split == "val":  # the module scores the test
            for key, value in self.metric.compute().items():
                module.log(f"{split}/{key}", value.float())
        rows = gather_rows(self.rows, trainer)
        module.log(f"{split}/cut", torch.tensor(sum(row["cut"] for row in rows) / max(1, len(rows))))
        module.log(f"{split}/unanswered", torch.tensor(sum(row["unanswered"] for row in rows) / max(1, len(rows))))
        figure = self.metric.figure()
        if trainer.is_global_zero:
            write_json_lines(responses_file(trainer, name), rows)
            if figure is not None:
                publish(figure, responses_file(trainer, name).with_suffix(".png"), trainer, split)
        self.rows = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.start(pl_module)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DomainSFT, outputs: list[Response], batch: MicroBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.add(pl_module, "test", batch.ids, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.finish(trainer, pl_module, "test", "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.sanity_checking or not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data = pl_module.data
        data.encode_prompts("val")
        self.start(pl_module)
        batches = track(list(data.prompt_plan("val")), description="Answering", transient=True, disable=not trainer.is_global_zero)
        for batch in batches:
            self.add(pl_module, "val", batch.ids, pl_module.respond([data.prompts["val"][index] for index in batch.ids]))
        self.finish(trainer, pl_module, "val", f"val-epoch-{trainer.current_epoch + 1}")


def publish(figure: "Figure", path: Path, trainer: Trainer, split: Split) -> None:
    """To a file and to TensorBoard."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(f"{split}/answers", figure, trainer.global_step)
