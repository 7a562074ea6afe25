"""Scores the responses that the model generates for the domain, and writes every one of them."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer

from lit_talr.callbacks.base import Rows, epoch_is_due, gather_rows, response_rows, responses_file
from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.example import Split
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.generation import Response
from lit_talr.module import DomainSFT
from lit_talr.utils.boards import boards
from lit_talr.utils.errors import check_least
from lit_talr.utils.files import write_bytes, write_json_lines
from lit_talr.utils.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(eq=False)
class DomainScore(Callback):
    """Writes each response of ``test`` to ``answers/test.jsonl`` of the run folder; ``test`` itself logs ``test/score`` and the domain's other metrics.

    Logs ``test/cut``, the share of responses cut by ``max_new_tokens``, and ``test/unanswered``, that of prompts too long for the model, which count as
    wrong. A metric's figure goes to ``answers/test.png``, TensorBoard, W&B and MLflow. Where asked, scores validation rows in the same way.

    Args:
        every_n_epochs: Also score responses to the validation rows after every so many epochs, at least 1; never by default.

    Raises:
        ValueError: For a number of epochs below 1.
    """

    every_n_epochs: int | None = None

    def __post_init__(self) -> None:
        check_least("every_n_epochs", self.every_n_epochs, 1, "leave it out for never")
        self.rows: Rows = []  # of this rank

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if stage == "test" or (stage == "fit" and self.every_n_epochs):
            pl_module.check_generation(trainer)

    def metric_names(self, module: DomainSFT) -> list[str]:
        """Names of the validation scores, as the metric has them for its rows."""
        if not self.every_n_epochs:
            return []
        metric, examples = module.data.metric(), module.data.kept["val"]
        metric.sync_on_compute = False  # each rank has all rows
        metric.update([""] * len(examples), examples)
        return [f"val/{name}" for name in (*metric.compute(), "cut", "unanswered")]

    def on_test_epoch_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.rows = []

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DomainSFT, outputs: list[Response], batch: MicroBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert pl_module.test_metric is not None
        examples = [pl_module.data.kept["test"][index] for index in batch.ids]
        self.rows += response_rows(pl_module.test_metric, batch.ids, examples, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        assert pl_module.test_metric is not None
        self.publish(trainer, pl_module, pl_module.test_metric, "test", "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if not epoch_is_due(trainer, self.every_n_epochs):
            return
        data, self.rows = pl_module.data, []
        data.encode_prompts("val")
        metric = data.metric().to(pl_module.device)
        for batch in track(list(data.prompt_plan("val")), "Validation responses", show=trainer.is_global_zero):
            examples = [data.kept["val"][index] for index in batch.ids]
            responses = pl_module.respond([data.prompts["val"][index] for index in batch.ids])
            metric.update([response.text for response in responses], examples)
            self.rows += response_rows(metric, batch.ids, examples, responses)
        items = data.response_items("val")
        for name, value in metric.compute().items():
            pl_module.log_score(f"val/{name}", value.float(), items)
        self.publish(trainer, pl_module, metric, "val", f"val-epoch-{trainer.current_epoch + 1}")

    def publish(self, trainer: Trainer, module: DomainSFT, metric: DomainMetric, split: Split, name: str) -> None:
        """Log shares and write rows and figure. Collective."""
        rows = gather_rows(self.rows)
        items = module.data.response_items(split).first(len(rows))
        for share in ("cut", "unanswered"):
            module.log_score(f"{split}/{share}", torch.tensor(sum(row[share] for row in rows) / max(1, len(rows))), items)
        figure = metric.figure()
        if trainer.is_global_zero:
            write_json_lines(responses_file(trainer, name), rows)
            if figure is not None:
                publish_figure(figure, responses_file(trainer, name).with_suffix(".png"), trainer, split)
        self.rows = []


def publish_figure(figure: "Figure", path: Path, trainer: Trainer, split: Split) -> None:
    """Write a figure to a file, and show it to the loggers."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    for board in boards(trainer):
        board.add_figure(f"{split}/answers", figure, trainer.global_step)
