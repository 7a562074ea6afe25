"""``lit-talr demo``: what a domain costs in general ability, and what a remedy buys back, by commands that anyone can type."""

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

WHAT_IT_SHOWS = """
The model is the lab's base, 1.3 million parameters with nine general skills; the domain is Clinic, made-up calculators that contradict its habits.
domain is the share of right answers on Clinic's test rows, general the mean over the nine skills, both before and after; lost is what general lost, with a
95 % interval over items. alpha 0.5 lies half-way between the base and the fine-tuned model.

What this can show: that a large rate costs general ability which a small one keeps, and what each remedy buys back here.
What it cannot show: how a real model behaves. One seed, a small model, rules made by code; sweep more seeds and rates (docs/sweep.md).
"""


def demo(folder: Path = Path("runs/demo"), rows: int = 256, epochs: int = 6, workers: int = 2) -> None:
    """Fine-tune the embedded base on Clinic at a small and a large rate and by three remedies, and see what each learned and what it forgot.

    Args:
        folder: For the runs; where it exists, the next free name (``runs/demo-2``, ...) is taken.
        rows: Training rows of each fit.
        epochs: Epochs of each fit.
        workers: Fits that run at once.

    Raises:
        ValueError: For a command that failed; its own message stands above.
    """
    began = time.monotonic()
    folder = free(folder)
    words = ["-c", "configs/experiment/lab_clinic.yaml", "--data.train_size", str(rows), "--trainer.max_epochs", str(epochs)]
    run("sweep", *words, "--space", "configs/sweep/demo.yaml", "--out", str(folder), "--workers", str(workers))
    page = folder / "report" / "report.html"
    run("report", str(folder), "--out", str(page))
    console = Console(soft_wrap=True)
    console.print(f"\n[bold]Clinic before and after fine-tuning, and nine general skills ({time.monotonic() - began:.0f} s in all)[/bold]\n")
    Console(width=110).print(comparison(pd.read_parquet(page.with_name("results.parquet"))))
    console.print(WHAT_IT_SHOWS)
    console.print(f"The page, with everything:  {page}", markup=False, highlight=False)
    console.print(f"See the curriculum:  {Path(sys.executable).with_name('tensorboard')} --logdir {folder}", markup=False, highlight=False)


def free(folder: Path) -> Path:
    """The folder, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def run(*words: str) -> None:
    """Run a command of lit-talr, shown before it starts."""
    Console(soft_wrap=True).print(f"\n[bold]$ lit-talr {escape(shlex.join(words))}[/bold]\n", highlight=False)
    with subprocess.Popen([sys.executable, "-m", "lit_talr", *words]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it has heard it too, and lets its own commands end
            raise
    if code:
        raise ValueError(f"The demo stops here: `lit-talr {words[0]}` failed, for the reason above.")


def comparison(results: pd.DataFrame) -> Table:
    """A line for each point but the base: both scores before and after."""
    table = Table(box=box.MARKDOWN)
    for column in ("", "domain", "general", "lost"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    (before,) = results[results["remedy"] == "base"].itertuples()
    for after in results[results["remedy"] != "base"].itertuples():
        pairs = (f"{getattr(before, key):.3f} → {getattr(after, key):.3f}" for key in ("domain", "general"))
        table.add_row(after.point, *pairs, f"{after.drop:.3f} [{after.drop_lower:.3f}, {after.drop_upper:.3f}]")
    return table
