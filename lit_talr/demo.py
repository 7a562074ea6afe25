"""``lit-talr demo``: a starting model, then Standard and TALR side by side, all by commands that anyone can type."""

import shlex
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_talr.curriculum import curriculum
from lit_talr.files import read_json

PARTS = ("-c", "configs/base.yaml", "-c", "configs/model/clinic.yaml", "-c", "configs/data/clinic.yaml")
KNOWN = ("Varro score", "Ilmar score", "Tolm grade", "Reth grade", "Quill index", "Halden gap")
"""Calculators that the starting model is taught."""
NEW = ("Dorne score", "Pell score", "Osker grade", "Mirel grade", "Sorrel load", "Brand ratio")
"""Those of the domain that it is fine-tuned on."""
LOSSES = ("standard", "talr")

WHAT_IT_SHOWS = """
p > 0.2 is the share of easy tokens of the probe, p of the hard the mean probability of those below 0.2 at the start, both before and after; at floor is
the share of training tokens at TALR's least weight in the last epoch. cot learns worked explanations, label answers alone.

What this can show: in which order tokens are learned, what TALR's weights hold back, and that all of it works, on rows that were never trained on.
What it cannot show: the paper's claim. A model of 0.7 million parameters, trained for a minute from random weights, has no general abilities to
keep; for that, start from a real model (docs/running.md). One seed: a test score has a standard error of about 0.02.
"""


def demo(folder: Path = Path("runs/demo"), rows: int = 4096, base_epochs: int = 2, cot_epochs: int = 5, label_epochs: int = 3) -> None:
    """Train a small model on half of Clinic's calculators, fine-tune it on the other half by Standard and by TALR, and compare them in a few minutes.

    Args:
        folder: For the runs; where it exists, the next free name (``runs/demo-2``, ...) is taken.
        rows: Training rows of each fit.
        base_epochs: Epochs of the starting model.
        cot_epochs: Epochs of fine-tuning on worked explanations.
        label_epochs: Epochs of fine-tuning on answers alone.

    Raises:
        ValueError: For a command that failed; its own message stands above.
    """
    began = time.monotonic()
    folder = free(folder)
    base, parts = folder / "base", [*PARTS, "--data.train_size", str(rows)]
    known, new = [f"[{', '.join(names)}]" for names in (KNOWN, NEW)]
    run("fit", *parts, "-c", "configs/loss/standard.yaml", "--data.calculators", known, "--trainer.max_epochs", str(base_epochs), "--run", str(base))
    from_export = ["--model.architecture", "null", "--model.tokenizer", "null", "--model.pretrained", str(base / "export"), "--model.optimizer.lr", "3e-3"]
    seconds = {}
    for target, epochs in (("cot", cot_epochs), ("label", label_epochs)):
        start = [*parts, *from_export, "--data.calculators", new, "--data.target", target, "--trainer.max_epochs", str(epochs)]
        run("test", *start, "-c", "configs/loss/standard.yaml", "--run", str(folder / f"before-{target}"))
        for loss in LOSSES:
            name = f"{loss}-{target}"
            seconds[name] = run("fit", *start, "-c", f"configs/loss/{loss}.yaml", "--run", str(folder / name))
            run("test", "-c", str(folder / name / "config.yaml"), "--ckpt_path", "last")
    console = Console(soft_wrap=True)
    for loss in LOSSES:
        curriculum(folder / f"{loss}-cot")
    console.print(f"\n[bold]Clinic, six new calculators, before and after fine-tuning ({time.monotonic() - began:.0f} s in all)[/bold]\n")
    Console(width=110).print(comparison(folder, seconds))
    console.print(WHAT_IT_SHOWS)
    console.print(f"See the curriculum:  {Path(sys.executable).with_name('tensorboard')} --logdir {folder}", markup=False, highlight=False)
    console.print(f"The trained model, a Hugging Face folder:  {folder / 'talr-cot' / 'export'}", markup=False, highlight=False)


def free(folder: Path) -> Path:
    """The folder, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def run(*words: str) -> float:
    """Run a command of lit-talr, shown before it starts, and give its seconds."""
    Console(soft_wrap=True).print(f"\n[bold]$ lit-talr {escape(shlex.join(words))}[/bold]\n", highlight=False)
    began = time.monotonic()
    if subprocess.run([sys.executable, "-m", "lit_talr", *words], check=False).returncode:
        raise ValueError(f"The demo stops here: `lit-talr {words[0]}` failed, for the reason above.")
    return time.monotonic() - began


def comparison(folder: Path, seconds: dict[str, float]) -> Table:
    """A line for each run: its score before and after, and what became of its tokens."""
    table = Table(box=box.MARKDOWN)
    for column in ("", "test score", "val/nll", "p > 0.2", "p of the hard", "at floor", "fit, s"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, took in seconds.items():
        before = read_json(folder / f"before-{name.split('-')[1]}" / "metrics.json")["test"]
        after = read_json(folder / name / "metrics.json")
        found = pd.read_parquet(folder / name / "token_probability.parquet")
        last = found["epoch"].max()
        floor = found[(found["set"] == "train") & (found["group"] == "all") & (found["epoch"] == last)]["share_at_floor"].item()
        table.add_row(
            name,
            f"{before['test/score']:.3f} → {after['test']['test/score']:.3f}",
            f"{after['fit']['val/nll']:.3f}",
            *(f"{first:.3f} → {then:.3f}" for first, then in zip(probe(found, 0), probe(found, last), strict=True)),
            "" if pd.isna(floor) else f"{floor:.3f}",
            f"{took:.0f}",
        )
    return table


def probe(found: pd.DataFrame, epoch: int) -> tuple[float, float]:
    """Of the probe after an epoch: the share of easy tokens, and the mean probability of those that were below 0.2 at the start."""
    rows = found[(found["set"] == "probe") & (found["epoch"] == epoch)]
    hard = rows[(rows["group"] == "cohort") & (rows["upper"] <= 0.2) & (rows["num_tokens"] > 0)]
    mean = (hard["probability"] * hard["num_tokens"]).sum() / max(1, hard["num_tokens"].sum())
    return rows[rows["group"] == "all"]["share_above"].item(), mean
