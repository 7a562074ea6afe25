"""Cost of token statistics, as a share of a step:

    python -m benchmarks.token_probability -c configs/model/clinic.yaml -c configs/data/clinic.yaml -c configs/loss/talr.yaml

The options are those of ``lit-talr fit``, with TALR as the loss. Three times are measured: each micro-batch from its start to the end of its backward pass
or optimizer step; within it, TALR's temperature and weights; and after it the work of ``TokenProbability``, the statistics of all tokens and their
histogram. All are medians over the micro-batches after the first ten, in one run.
"""

import json
import statistics
import sys
import tempfile
import time
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_talr.callbacks import TokenProbability
from lit_talr.cli.command_line import main
from lit_talr.losses import TALR
from lit_talr.losses.base import TokenStats


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class TimedTALR(TALR):
    """Records the time that its weights took."""

    seconds: ClassVar[list[float]] = []

    def weights(self, stats: TokenStats) -> Tensor:
        started = now()
        weights = super().weights(stats)
        TimedTALR.seconds.append(now() - started)
        return weights


class Timed(TokenProbability):
    """Prints at the end the time that its histogram took."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self.histograms: list[float] = []
        self.tokens: list[int] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        super().on_train_batch_start(*arguments)
        self.started = now()

    def on_train_batch_end(self, *arguments: Any) -> None:
        trained = now()
        super().on_train_batch_end(*arguments)
        self.histograms.append(now() - trained)
        self.steps.append(trained - self.started)
        self.tokens.append(arguments[3]["labels"].numel())

    def on_fit_end(self, *arguments: Any) -> None:
        step, weights, histogram = (statistics.median(seconds[10:]) for seconds in (self.steps, TimedTALR.seconds, self.histograms))
        print("| micro-batches | tokens, padding included | threads | micro-step, ms | temperature and weights, ms | histogram, ms | share of both |")
        print("|---|---|---|---|---|---|---|")
        counts = f"| {len(self.steps)} | {statistics.median(self.tokens):,.0f} | {torch.get_num_threads()}"
        print(f"{counts} | {step * 1e3:.1f} | {weights * 1e3:.3f} | {histogram * 1e3:.3f} | {(weights + histogram) / step:.2%} |")


if __name__ == "__main__":
    callbacks = json.dumps([{"class_path": "benchmarks.token_probability.Timed"}])
    with tempfile.TemporaryDirectory() as folder:
        options = ["--trainer.callbacks", callbacks, "--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--run", folder]
        loss = ["--model.loss", "benchmarks.token_probability.TimedTALR"]
        main(["fit", "-c", "configs/base.yaml", *sys.argv[1:], *loss, *options])
