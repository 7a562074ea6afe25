"""Histograms, figures and tables for the loggers that have kinds for them; scalars go through Lightning's own ``log_metrics``."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # takes half a second to import
    from PIL.Image import Image

MOST_BINS = 512
"""W&B refuses a histogram of more."""


class Histogram(NamedTuple):
    """Counts in bins, from which each logger makes its own kind without losing any."""

    edges: Sequence[float]  # one more than bins
    counts: Sequence[int]
    means: Sequence[float]  # of the values in each bin; 0 where there are none


class Board(ABC):
    """Shows a logger the views of a run that are not single numbers."""

    @abstractmethod
    def add_histogram(self, tag: str, histogram: Histogram, epoch: int) -> None:
        """Adds the histogram of an epoch."""

    @abstractmethod
    def add_figure(self, tag: str, figure: "Figure", number: int) -> None:
        """Adds a figure, numbered by its epoch or step."""

    @abstractmethod
    def add_table(self, tag: str, rows: Sequence[Mapping[str, Any]], markdown: str, epoch: int) -> None:
        """Adds the table of an epoch, given as rows of the same columns and as a page of Markdown."""


class TensorBoard(Board):
    """Histograms, images and texts, which are visible at once."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.writer: Any = logger.experiment

    def add_histogram(self, tag: str, histogram: Histogram, epoch: int) -> None:
        counted = list(zip(histogram.counts, histogram.means, strict=True))
        self.writer.add_histogram_raw(
            tag,
            min=histogram.edges[0],
            max=histogram.edges[-1],
            num=sum(histogram.counts),
            sum=sum(count * mean for count, mean in counted),
            sum_squares=sum(count * mean**2 for count, mean in counted),
            bucket_limits=list(histogram.edges[1:]),
            bucket_counts=list(histogram.counts),
            global_step=epoch,
        )
        self.writer.flush()

    def add_figure(self, tag: str, figure: "Figure", number: int) -> None:
        self.writer.add_figure(tag, figure, number)
        self.writer.flush()

    def add_table(self, tag: str, rows: Sequence[Mapping[str, Any]], markdown: str, epoch: int) -> None:
        self.writer.add_text(tag, markdown, epoch)
        self.writer.flush()

    def add_charts(self, layout: dict[str, dict[str, list[Any]]]) -> None:
        """Arranges scalars on a page."""
        self.writer.add_custom_scalars(layout)


class Wandb(Board):
    """Weights & Biases' histograms, images and tables, each at the optimizer step that ended last, as all scalars are."""

    def __init__(self, logger: WandbLogger, step: int) -> None:
        self.logger, self.step = logger, step

    def add(self, tag: str, value: Any) -> None:
        self.logger.log_metrics({tag: value}, self.step)

    def add_histogram(self, tag: str, histogram: Histogram, epoch: int) -> None:
        import wandb

        width = -(-len(histogram.counts) // MOST_BINS)
        counts = [sum(histogram.counts[first : first + width]) for first in range(0, len(histogram.counts), width)]
        self.add(tag, wandb.Histogram(np_histogram=(np.array(counts), np.array([*histogram.edges[:-1:width], histogram.edges[-1]]))))

    def add_figure(self, tag: str, figure: "Figure", number: int) -> None:
        import wandb

        self.add(tag, wandb.Image(drawn(figure)))

    def add_table(self, tag: str, rows: Sequence[Mapping[str, Any]], markdown: str, epoch: int) -> None:
        import wandb

        self.add(tag, wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows]))


class MLflow(Board):
    """MLflow's images, by their numbers, and tables, which grow by the rows of each epoch; it has no histograms, so that these are images too."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self.client: Any = logger.experiment
        self.run_id = logger.run_id

    def add_histogram(self, tag: str, histogram: Histogram, epoch: int) -> None:
        self.add_figure(tag, histogram_figure(histogram, f"{tag}, epoch {epoch}"), epoch)

    def add_figure(self, tag: str, figure: "Figure", number: int) -> None:
        self.client.log_image(self.run_id, drawn(figure), key=tag, step=number)

    def add_table(self, tag: str, rows: Sequence[Mapping[str, Any]], markdown: str, epoch: int) -> None:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self.client.log_table(self.run_id, {"epoch": [epoch] * len(rows), **columns}, f"{tag}.json")


def boards(trainer: Trainer) -> list[Board]:
    """The boards of a trainer's loggers; only rank 0 may ask."""
    found: list[Board] = []
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            found.append(TensorBoard(logger))
        if isinstance(logger, WandbLogger):
            found.append(Wandb(logger, max(0, trainer.global_step - 1)))
        if isinstance(logger, MLFlowLogger):
            found.append(MLflow(logger))
    return found


def drawn(figure: "Figure") -> "Image":
    """A figure as an image."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def histogram_figure(histogram: Histogram, title: str) -> "Figure":
    """Draws the counts as steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(histogram.counts, histogram.edges, fill=True)
    axes.set(xlabel="probability of the token", ylabel="tokens", title=title)
    axes.grid(alpha=0.3, axis="y")
    return figure
