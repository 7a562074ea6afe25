"""Scores the answers that the model generates, and keeps every one of them."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich.progress import track

from lit_talr.callbacks.base import answers_file, judged, of_all_ranks
from lit_talr.data.base import Split
from lit_talr.data.batch_plan import MicroBatch
from lit_talr.files import write_json_lines
from lit_talr.generation import Answer
from lit_talr.metrics.base import DomainMetric
from lit_talr.module import DomainSFT


class DomainScore(Callback):
    """Logs ``test/score`` and the domain's other metrics, and writes each answer to ``answers/test.jsonl`` of the run folder.

    ``test/cut`` is the share of answers cut by ``max_new_tokens``, ``test/unanswered`` that of prompts too long to be asked, which count as wrong.
    On validation likewise, where asked.

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
            pl_module.check_answers(trainer)

    def start(self, module: DomainSFT) -> None:
        self.metric = module.data.metric().to(module.device)
        self.rows = []

    def add(self, module: DomainSFT, split: Split, ids: Sequence[int], answers: Sequence[Answer]) -> None:
        assert self.metric is not None
        self.rows += judged(self.metric, ids, [module.data.kept[split][index] for index in ids], answers)

    def finish(self, trainer: Trainer, module: DomainSFT, split: Split, name: str) -> None:
        """Collective: every rank calls it."""
        assert self.metric is not None
        for key, value in self.metric.compute().items():
            module.log(f"{split}/{key}", value.float())
        rows = of_all_ranks(self.rows, trainer)
        module.log(f"{split}/cut", torch.tensor(sum(row["cut"] for row in rows) / max(1, len(rows))))
        module.log(f"{split}/unanswered", torch.tensor(sum(row["unanswered"] for row in rows) / max(1, len(rows))))
        if trainer.is_global_zero:
            write_json_lines(answers_file(trainer, name), rows)
        self.rows = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.start(pl_module)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DomainSFT, outputs: list[Answer], batch: MicroBatch, batch_idx: int, dataloader_idx: int = 0
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
            self.add(pl_module, "val", batch.ids, pl_module.answer([data.prompts["val"][index] for index in batch.ids]))
        self.finish(trainer, pl_module, "val", f"val-epoch-{trainer.current_epoch + 1}")
