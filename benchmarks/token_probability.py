"""What the training histogram costs of a step: python -m benchmarks.token_probability -c configs/model/clinic.yaml -c configs/data/clinic.yaml \
-c configs/loss/talr.yaml

The words are those of ``lit-talr fit``. Every micro-batch is timed from its start to the end of its backward pass or optimizer step, and the callback's
own work after it by itself; both are medians over the micro-batches after the first ten, in one run.
"""

import json
import statistics
import sys
import tempfile
import time
from typing import Any

import torch

from lit_talr.callbacks import TokenProbability
from lit_talr.cli import main


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed(TokenProbability):
    """Prints at the end what its histogram took."""

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
        step, histogram = statistics.median(self.steps[10:]), statistics.median(self.histograms[10:])
        print("| micro-batches | tokens, padding included | threads | micro-step, ms | histogram, ms | share |\n|---|---|---|---|---|---|")
        tokens = f"{statistics.median(self.tokens):,.0f}"
        print(f"| {len(self.steps)} | {tokens} | {torch.get_num_threads()} | {step * 1e3:.1f} | {histogram * 1e3:.3f} | {histogram / step:.2%} |")


if __name__ == "__main__":
    callbacks = json.dumps([{"class_path": "benchmarks.token_probability.Timed"}])
    with tempfile.TemporaryDirectory() as folder:
        options = ["--trainer.callbacks", callbacks, "--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--run", folder]
        main(["fit", "-c", "configs/base.yaml", *sys.argv[1:], *options])
