"""Cost of measuring the drift, at its defaults, as a share of the time of the training steps in the same run.

    python -m benchmarks.drift   (the lab's run)
    python -m benchmarks.drift -c configs/model/lab.yaml -c configs/data/clinic.yaml -c configs/loss/standard.yaml --trainer.max_epochs 1

The options are those of ``lit-talr fit``. The run has no other callbacks, which would only make the share smaller. Times are CPU times of this process, so
that other processes do not count. A step is timed from the start of its forward pass to the end of the optimizer's work.
"""

import json
import sys
import tempfile
import time
from typing import Any

from lightning.pytorch import Trainer

from lit_talr.callbacks import Drift
from lit_talr.cli.command_line import main
from lit_talr.module import DomainSFT


class Timed(Drift):
    """Prints a row of the table at the end of the fit; the first measurement, of the base model, counts too."""

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        start = time.process_time()
        super().setup(trainer, pl_module, stage)
        self.sampling = time.process_time() - start
        self.measuring: list[float] = []
        self.stepping: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.begun = time.process_time()
        super().on_train_start(trainer, pl_module)

    def watch(self, trainer: Trainer, module: DomainSFT) -> None:
        start = time.process_time()
        super().watch(trainer, module)
        self.measuring.append(time.process_time() - start)

    def on_train_batch_start(self, trainer: Trainer, pl_module: DomainSFT, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.started = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.stepping.append(time.process_time() - self.started)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        fit, steps, measured = time.process_time() - self.begun, sum(self.stepping), sum(self.measuring)
        text = f"{self.num_sequences} x {self.length}"
        print("| steps | measurements | sequences x tokens | sampling once, s | one measurement, ms | all, s | steps, s | of steps | fit, s | of fit |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        found = f"{trainer.global_step} | {len(self.measuring)} | {text} | {self.sampling:.1f} | {1e3 * measured / len(self.measuring):.0f} | {measured:.2f}"
        print(f"| {found} | {steps:.1f} | {measured / steps:.2%} | {fit:.1f} | {measured / fit:.2%} |")


if __name__ == "__main__":
    callbacks = json.dumps([{"class_path": "benchmarks.drift.Timed"}])
    words = sys.argv[1:] or ["-c", "configs/experiment/lab_clinic.yaml"]
    base = [] if any("experiment" in word for word in words) else ["-c", "configs/base.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--trainer.logger", "false", "--run", f"{folder}/run"]
        alone = ["--trainer.callbacks", callbacks, "--trainer.enable_checkpointing", "false"]
        main(["fit", *base, *words, *options, *alone])
