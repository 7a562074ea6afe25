"""``lit-talr demo``: a small study of forgetting in two worlds, made of commands that anyone can type."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

EXPERIMENT = ("-c", "configs/experiment/lab_talr.yaml", "--trainer.callbacks+=HFExport")  # Wise-FT interpolates exports
AXES = ("domain", "general")
EXPLANATION = """
The base model is the lab's: 1.3 million parameters and nine general skills. The domain is Clinic, invented calculators that contradict its habits.
clean: training rows as they are. noisy: one of five tokens of their explanations is a random word. All test rows are clean.
domain is the accuracy on Clinic's test rows, and general the mean accuracy over the nine skills, each base → tuned.
lost is the drop of general. alpha 0.5 lies half-way between the base and the fine-tuned model.
Intervals are of 95 %, over items, paired; where one contains 0, two points are not told apart.

What this can show: what a large rate costs, what each remedy buys back, and whether that depends on the training rows.
What it cannot show: how a real model behaves, or another seed. Noise of other kinds and places, seeds and rates: docs/when_talr_helps.md.
"""


def demo(folder: Path = Path("runs/demo"), rows: int = 256, epochs: int = 6, workers: int = 2) -> None:
    """Fine-tune the lab's base model on Clinic, clean and with noise in the training rows, by several remedies, and compare what each learned and forgot.

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
    words = [*EXPERIMENT, "--data.train_size", str(rows), "--trainer.max_epochs", str(epochs)]
    run_command("sweep", *words, "--space", "configs/sweep/demo.yaml", "--out", str(folder), "--workers", str(workers))
    page = folder / "report" / "report.html"
    run_command("report", str(folder), "--out", str(page))
    console = Console(soft_wrap=True)
    console.print(f"\n[bold]Clinic and nine general skills, before and after fine-tuning ({time.monotonic() - began:.0f} s in all)[/bold]\n")
    show_results(page.parent, console)
    console.print(EXPLANATION, markup=False, highlight=False)
    console.print(f"The picture:  {page.parent / 'figures' / 'tradeoff.png'}", markup=False, highlight=False)
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


def show_results(report: Path, console: Console) -> None:
    """Print a report's scores, and for each world what every point has more or less than Standard."""
    results, pairs = (pd.read_parquet(report / f"{name}.parquet") for name in ("results", "pairs"))
    Console(width=110).print(comparison_table(results))
    for world, rows in results.groupby("variant", sort=False):
        console.print(f"\n[bold]{world}: minus Standard at the large rate[/bold]\n")
        for sentence in comparisons(rows, pairs):
            console.print(f"- {sentence}", markup=False, highlight=False)


def comparison_table(results: pd.DataFrame) -> Table:
    """A row for each point but the base models, with both scores, base → tuned."""
    table = Table(box=box.MARKDOWN)
    for column in ("", *AXES, "lost"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    bases = {base.variant: base for base in results[results["remedy"] == "base"].itertuples()}
    for tuned in results[results["remedy"] != "base"].itertuples():
        pairs = (f"{getattr(bases[tuned.variant], axis):.3f} → {getattr(tuned, axis):.3f}" for axis in AXES)
        table.add_row(tuned.point, *pairs, f"{tuned.drop:.3f} [{tuned.drop_lower:.3f}, {tuned.drop_upper:.3f}]")
    return table


def comparisons(results: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[str]:
    """Sentences on a world: each point minus Standard, with paired intervals, and as much as these say."""
    (standard,) = results.loc[results["remedy"] == "standard", "point"]
    for point in results.loc[~results["remedy"].isin(["base", "standard"]), "point"]:
        (pair,) = pairs[(pairs["reference"] == standard) & (pairs["point"] == point)].to_dict("records")
        numbers = ", ".join(f"{axis} {pair[axis]:+.3f} [{pair[f'{axis}_lower']:+.3f}, {pair[f'{axis}_upper']:+.3f}]" for axis in AXES)
        yield f"{point}: {numbers}: {verdict({axis: (pair[f'{axis}_lower'], pair[f'{axis}_upper']) for axis in AXES})}."


def verdict(intervals: dict[str, tuple[float, float]]) -> str:
    """Says on which axes a difference is above or below 0, and on which its interval contains 0."""
    axes = {
        "better": [axis for axis, (lower, _) in intervals.items() if lower > 0],
        "worse": [axis for axis, (_, upper) in intervals.items() if upper < 0],
        "not told apart": [axis for axis, (lower, upper) in intervals.items() if lower <= 0 <= upper],
    }
    return ", ".join(f"{word} on {' and '.join(names)}" for word, names in axes.items() if names)
