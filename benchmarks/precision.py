"""What rounding to bfloat16 hides of a real model's fine-tuning, by rate and steps: one fit per rate, and its validation NLL in three arithmetics.

    python -m benchmarks.real_model MODEL
    python -m benchmarks.precision MODEL $LIT_TALR_DATA/esci/esci_us_pairs.parquet --out runs/precision

A fit is ``lit-talr fit`` under ``bf16-mixed`` (fp32 weights, bf16 autocast), by AdamW at a constant rate, on the first short ESCI pairs. Afterwards its
export is scored by ``lit-talr validate`` in the three arithmetics of ``model.arithmetic``; so is the base model. What is done already in the folder is not
done again. It prints the tables of results/precision-cpu.md and draws docs/images/visible.png.
"""

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Trainer
from matplotlib.figure import Figure

from lit_talr.callbacks import VisibleUpdate
from lit_talr.cli.command_line import main as lit_talr
from lit_talr.data.encoded import Batch
from lit_talr.module import DomainSFT
from lit_talr.report.runs import scientific
from lit_talr.utils.files import read_json_lines, write_json, write_json_lines, write_text
from lit_talr.utils.score import read_scores

RATES = (1e-6, 1e-5, 1e-4)
MEASURED = (1, 2, 4, 8, 16, 24, 32)
"""Steps after which the visible share is measured."""
ROWS = {"train": 32, "validation": 16, "test": 1}
CHARACTERS = 80
"""Longest title of a product."""
PROMPT = """user: |-
  Query: {query}
  {product}
  Does the product fit the query? Reply with {"answer": <E (exact), S (substitute), C (complement) or I (irrelevant)>}.
"""
ARITHMETICS = {"fp32": "fp32", "bf16 autocast": "training", "bf16 weights": "bf16"}
"""Values of ``model.arithmetic`` by what they are under ``bf16-mixed``."""
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "visible.png"


class Curve(VisibleUpdate):
    """Measures after some steps too, and writes ``curve.jsonl``: the share, and the seconds since training began."""

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        self.rows: list[dict[str, float]] = []
        self.begun = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if trainer.global_step in MEASURED:
            self.on_train_epoch_end(trainer, pl_module)
            self.rows.append({"step": trainer.global_step, "visible": float(trainer.callback_metrics["update/visible"])})

    def on_train_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        super().on_train_end(trainer, pl_module)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = round(time.monotonic() - self.begun)
        write_json_lines(Path(trainer.default_root_dir) / "curve.jsonl", [{"rate": rate, **row, "seconds": seconds} for row in self.rows])


def write_rows(source: Path, folder: Path) -> list[str]:
    """Write the first short pairs of each split, and a short prompt; return the options of lit-talr."""
    pairs = pd.read_parquet(source)
    pairs = pairs[pairs["product_title"].str.len() <= CHARACTERS]
    options = ["--data.fields", "[title]", "--data.prompt_file", str(folder / "prompt.yaml"), "--data.max_rows", "null", "--data.max_test_rows", "null"]
    write_text(folder / "prompt.yaml", PROMPT)
    for split, number in ROWS.items():
        file = folder / f"{split}.parquet"
        pairs[pairs["split"] == split].head(number).to_parquet(file)
        options += [f"--data.{'val' if split == 'validation' else split}", str(file)]
    return options


def run(log: Path, *words: str) -> None:
    """Run a command of lit-talr in this process; its output goes to a file."""
    shared = ["-c", "configs/base.yaml", "-c", "configs/data/esci.yaml", "-c", "configs/loss/standard.yaml", "--trainer.logger", "false"]
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        lit_talr([words[0], *shared, *words[1:]])


def fit(out: Path, model: Path, data: Sequence[str], rate: float) -> Path:
    """Fine-tune at a rate; return the export."""
    folder = out / f"rate-{rate:g}"
    if not (folder / "metrics.json").is_file():  # which is written when the export is there
        shutil.rmtree(folder, ignore_errors=True)
        callbacks = json.dumps([{"class_path": name} for name in ("benchmarks.precision.Curve", "HFExport", "Summary")])
        batching = ["--data.batching.batch_size", "2", "--data.batching.micro_batch_size", "2"]
        training = ["--model.optimizer.lr", str(rate), "--model.schedule", "Constant", "--trainer.max_epochs", "-1", "--trainer.max_steps", str(MEASURED[-1])]
        quiet = ["--trainer.callbacks", callbacks, "--trainer.enable_checkpointing", "false", "--trainer.limit_val_batches", "0"]
        run(out / "log.txt", "fit", "--model.pretrained", str(model), *data, *batching, *training, *quiet, "--run", str(folder))
    return folder / "export"


def score(out: Path, model: Path, data: Sequence[str], name: str) -> dict[str, float]:
    """The validation NLL of a model folder in each arithmetic."""
    nll = {}
    for arithmetic, option in ARITHMETICS.items():
        folder = out / f"{name}-{arithmetic.replace(' ', '-')}"
        if not (folder / "metrics.json").is_file():
            options = ["--model.arithmetic", option, "--trainer.callbacks", '[{"class_path": "Summary"}]', "--run", str(folder)]
            run(out / "log.txt", "validate", "--model.pretrained", str(model), *data, *options)
        score = read_scores(folder / "metrics.json")["validate"]["val/nll"]
        assert score.arithmetic == arithmetic
        nll[arithmetic] = score.value
    return nll


def curve_table(curves: dict[float, list[dict[str, float]]]) -> Iterator[str]:
    yield f"| rate | {' | '.join(f'step {step}' for step in MEASURED)} |\n|{'---|' * (len(MEASURED) + 1)}"
    for rate, rows in curves.items():
        cells = [f"{row['visible']:.3f}" for row in rows]
        yield f"| {scientific(rate)} | {' | '.join(cells)} |"


def nll_table(scores: dict[str, dict[str, float]]) -> Iterator[str]:
    yield f"| val/nll | {' | '.join(ARITHMETICS)} |\n|{'---|' * (len(ARITHMETICS) + 1)}"
    for name, nll in scores.items():
        yield f"| {name} | {' | '.join(f'{nll[arithmetic]:.3f}' for arithmetic in ARITHMETICS)} |"


def draw(curves: dict[float, list[dict[str, float]]], file: Path) -> None:
    """Draw the visible share by steps, a line for each rate."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for rate, rows in curves.items():
        axes.plot([row["step"] for row in rows], [row["visible"] for row in rows], marker="o", markersize=4, label=f"rate {scientific(rate)}")
    axes.set(xscale="log", xlabel="AdamW steps", ylabel="update/visible", ylim=(0, 1.05))
    axes.set_xticks(MEASURED, [str(step) for step in MEASURED])
    axes.minorticks_off()
    axes.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder, such as benchmarks.real_model makes")
    parser.add_argument("pairs", type=Path, help="ESCI's pairs, a Parquet file with a column `split`")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds is not done again")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out, data = arguments.out, write_rows(arguments.pairs, arguments.out)
    scores, curves = {"base": score(out, arguments.model, data, "base")}, {}
    for rate in RATES:
        export = fit(out, arguments.model, data, rate)
        curves[rate] = read_json_lines(export.parent / "curve.jsonl")
        scores[scientific(rate)] = score(out, export, data, f"{rate:g}")
    write_json(out / "results.json", {"curves": [row for rows in curves.values() for row in rows], "nll": scores})
    print("\n".join([*curve_table(curves), "", *nll_table(scores)]))
    draw(curves, arguments.figure)


if __name__ == "__main__":
    main()
