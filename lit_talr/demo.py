"""``lit-talr demo``: a starting model, then Standard and TALR side by side, all by commands that anyone can type."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
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
REMEDIES = ("standard", "talr")

WHAT_IT_SHOWS = """\
What this can show: in which order tokens are learned, what TALR's weights hold back, and that everything works, on rows that were never trained on.
What it cannot show: the paper's claim. A model of a million parameters that was trained for a minute has no general abilities to keep; for that, start
from a real model (README, "Run"). One seed, a few hundred test rows: differences of a few points between the two losses mean nothing.
"""


def demo(folder: Path = Path("runs/demo"), rows: int = 2048, base_epochs: int = 8, epochs: int = 6) -> None:
    """Train a small model on half of Clinic's calculators, fine-tune it on the other half by Standard and by TALR, test, and compare; a few minutes on two cores.

    Args:
        folder: For the runs; where it exists, the next free name (``runs/demo-2``, ...) is taken.
        rows: Training rows of each fit.
        base_epochs: Epochs of the starting model.
        epochs: Epochs of each fine-tuning.

    Raises:
        ValueError: For a command that failed; its own message stands above.
    """
    began = time.monotonic()
    folder = free(folder)
    base, parts = folder / "base", [*PARTS, "--data.train_size", str(rows)]
    run("fit", *parts, "-c", "configs/loss/standard.yaml", "--data.calculators", words(KNOWN), "--trainer.max_epochs", str(base_epochs), "--run", str(base))
    start = [*parts, *from_export(base), "--data.calculators", words(NEW)]
    for verb in ("validate", "test"):
        run(verb, *start, "-c", "configs/loss/standard.yaml", "--run", str(folder / "before"))
    seconds = {}
    for remedy in REMEDIES:
        options = ["-c", f"configs/loss/{remedy}.yaml", "--trainer.max_epochs", str(epochs), "--model.optimizer.lr", "1e-3", "--run", str(folder / remedy)]
        seconds[remedy] = run("fit", *start, *options)
        run("test", "-c", str(folder / remedy / "config.yaml"), "--ckpt_path", "last")
    console = Console(soft_wrap=True)
    curriculum(folder)
    console.print(f"\n[bold]Clinic: six new calculators, {time.monotonic() - began:.0f} s in all[/bold]")
    console.print(comparison(folder, seconds))
    console.print(WHAT_IT_SHOWS)
    tensorboard = Path(sys.executable).with_name("tensorboard")
    console.print(f"See the curriculum:  {tensorboard} --logdir {folder}", markup=False)
    console.print(f"The trained model, a Hugging Face folder:  {folder / 'talr' / 'export'}", markup=False)


def from_export(base: Path) -> list[str]:
    """Options that start from a run's exported model instead of random weights."""
    return ["--model.architecture", "null", "--model.tokenizer", "null", "--model.pretrained", str(base / "export")]


def free(folder: Path) -> Path:
    """The folder, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def words(names: Sequence[str]) -> str:
    """A list as the command line reads it."""
    return "[" + ", ".join(names) + "]"


def run(*arguments: str) -> float:
    """Run a command of lit-talr, shown before it starts, and give its seconds."""
    Console(soft_wrap=True).print(f"\n[bold]$ lit-talr {escape(shlex.join(arguments))}[/bold]\n", highlight=False)
    began = time.monotonic()
    if subprocess.run([sys.executable, "-m", "lit_talr", *arguments], check=False).returncode:
        raise ValueError(f"The demo stops here: `lit-talr {arguments[0]}` failed, for the reason above.")
    return time.monotonic() - began


def comparison(folder: Path, seconds: dict[str, float]) -> Table:
    """The starting model and the runs, one line each."""
    table = Table(box=box.MARKDOWN)
    for column in ("", "test score", "val/nll", "easy tokens, p > 0.2", "mean p of the hard ones", "at the weight's floor", "fit, s"):
        table.add_column(column, justify="right")
    start = read_json(folder / "before" / "metrics.json")
    table.add_row("starting model", score(start["test"]), f"{start['validate']['val/nll']:.3f}", *shares(folder / REMEDIES[0], epoch=0), "", "")
    for remedy, took in seconds.items():
        metrics = read_json(folder / remedy / "metrics.json")
        table.add_row(remedy, score(metrics["test"]), f"{metrics['fit']['val/nll']:.3f}", *shares(folder / remedy), at_floor(folder / remedy), f"{took:.0f}")
    return table


def score(metrics: dict[str, float]) -> str:
    return f"{metrics['test/score']:.3f} ± {metrics['test/accuracy_se']:.3f}"


def shares(run: Path, epoch: int | None = None) -> tuple[str, str]:
    """Of a run's probe after an epoch, or the last one: the share of easy tokens, and the mean probability of those that were hard at the start."""
    found = pd.read_parquet(run / "token_probability.parquet")
    found = found[(found["set"] == "probe") & (found["epoch"] == (found["epoch"].max() if epoch is None else epoch))]
    hard = found[(found["group"] == "cohort") & (found["upper"] <= 0.2) & (found["num_tokens"] > 0)]
    mean = (hard["probability"] * hard["num_tokens"]).sum() / max(1, hard["num_tokens"].sum())
    return f"{found[found['group'] == 'all']['share_above'].item():.3f}", f"{mean:.3f}"


def at_floor(run: Path) -> str:
    """The share of training tokens at the least weight in a run's last epoch."""
    found = pd.read_parquet(run / "token_probability.parquet")
    share = found[(found["set"] == "train") & (found["group"] == "all") & (found["epoch"] == found["epoch"].max())]["share_at_floor"].item()
    return "" if pd.isna(share) else f"{share:.3f}"
