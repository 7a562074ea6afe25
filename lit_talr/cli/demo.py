"""``lit-talr demo``: a small study of forgetting, made of commands that anyone can type."""

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

EXPLANATION = """
The base model is the lab's: 1.3 million parameters and nine general skills. The domain is Clinic, invented calculators that contradict its habits.
domain is the accuracy on Clinic's test rows, and general the mean accuracy over the nine skills, each base → tuned.
lost is the drop of general, with a 95 % interval over items. alpha 0.5 lies half-way between the base and the fine-tuned model.

What this can show: that a large rate costs general ability which a small one keeps, and what each remedy recovers here.
What it cannot show: how a real model behaves. One seed, a small model, rules made by code; sweep more seeds and rates (docs/sweep.md).
"""


def demo(folder: Path = Path("runs/demo"), rows: int = 256, epochs: int = 6, workers: int = 2) -> None:
    """Fine-tune the lab's base model on Clinic at a small and a large rate and with three remedies, and compare what each learned and forgot.

    Args:
        folder: Folder of the runs; where it exists, the next free name (``runs/demo-2``, ...) is taken.
        rows: Training rows of each fit.
        epochs: Epochs of each fit.
        workers: Fits that run at once.

    Raises:
        ValueError: If a command fails, which prints its own message.
    """
    began = time.monotonic()
    folder = free_folder(folder)
    words = ["-c", "configs/experiment/lab_clinic.yaml", "--data.train_size", str(rows), "--trainer.max_epochs", str(epochs)]
    run_command("sweep", *words, "--space", "configs/sweep/demo.yaml", "--out", str(folder), "--workers", str(workers))
    page = folder / "report" / "report.html"
    run_command("report", str(folder), "--out", str(page))
    console = Console(soft_wrap=True)
    console.print(f"\n[bold]Clinic and nine general skills, before and after fine-tuning ({time.monotonic() - began:.0f} s in all)[/bold]\n")
    Console(width=110).print(comparison_table(pd.read_parquet(page.with_name("results.parquet"))))
    console.print(EXPLANATION)
    console.print(f"The page, with everything:  {page}", markup=False, highlight=False)
    console.print(f"See the curriculum:  {Path(sys.executable).with_name('tensorboard')} --logdir {folder}", markup=False, highlight=False)


def free_folder(folder: Path) -> Path:
    """The folder, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def run_command(*words: str) -> None:
    """Prints a command of lit-talr, and runs it."""
    Console(soft_wrap=True).print(f"\n[bold]$ lit-talr {escape(shlex.join(words))}[/bold]\n", highlight=False)
    with subprocess.Popen([sys.executable, "-m", "lit_talr", *words]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it is interrupted too, and waits for its own commands
            raise
    if code:
        raise ValueError(f"The demo stops here: `lit-talr {words[0]}` failed, for the reason above.")


def comparison_table(results: pd.DataFrame) -> Table:
    """A row for each point but the base model, with both scores, base → tuned."""
    table = Table(box=box.MARKDOWN)
    for column in ("", "domain", "general", "lost"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    (base,) = results[results["remedy"] == "base"].itertuples()
    for tuned in results[results["remedy"] != "base"].itertuples():
        pairs = (f"{getattr(base, key):.3f} → {getattr(tuned, key):.3f}" for key in ("domain", "general"))
        table.add_row(tuned.point, *pairs, f"{tuned.drop:.3f} [{tuned.drop_lower:.3f}, {tuned.drop_upper:.3f}]")
    return table
