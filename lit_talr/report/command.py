"""``lit-talr report``: reads runs, writes tables, figures and a page."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from lit_talr.report.figures import write_figures
from lit_talr.report.latex import latex_table
from lit_talr.report.page import page
from lit_talr.report.tables import Tables, collect, read_tables
from lit_talr.utils.files import write_bytes, write_text


def report(runs: list[Path] | None = None, out: Path = Path("report/report.html"), results: Path | None = None) -> None:
    """Show what runs gain on their domain and what they lose in general: ``lit-talr report RUNS... --out report/report.html``.

    Next to the page it writes its tables (results.parquet, .csv and .tex, and the other data of the page) and figures/ as PNG and PDF. It replaces the
    files of an earlier report there.

    Args:
        runs: Run folders, or folders that hold them at any depth, such as that of a sweep; each a word of its own.
        out: The page, a name that ends in .html; the other files are written next to it.
        results: The folder of an earlier report; page and figures are made again from its tables. Where runs are given too, they join those of the tables, and
            take the place of those of their names. ``--from`` is the same.

    Raises:
        ValueError: For neither runs nor results; a name that does not end in .html; a folder that holds no tested run or no tables; two runs
            of the same point and seed.
    """
    if not runs and not results:
        raise ValueError("`report` needs run folders, or `--from` the folder of an earlier report, or both.")
    if out.suffix != ".html" or out.is_dir():
        raise ValueError(f"`out` must be the name of the page, such as report.html, got {out}.")
    if runs:
        collect(runs, read_tables(results) if results else None).write(out.parent)
    tables = read_tables(out.parent if runs or not results else results)  # also what was just written, so that the page does not depend on the runs
    if results and not runs:
        for file in (results / f"{name}.parquet" for name in Tables._fields):
            if file.is_file():
                write_bytes(out.parent / file.name, file.read_bytes())
    write_text(out.parent / "results.csv", tables.results.to_csv(index=False))
    write_text(out.parent / "results.tex", latex_table(tables.means))
    write_figures(tables, out.parent / "figures")
    write_text(out, page(tables))
    console = Console(soft_wrap=True)
    for name, sentence in zip(tables.notes["name"], tables.notes["sentence"], strict=True):
        console.print(f"{name}: {sentence}", markup=False, highlight=False)
    console.print(f"{out}: {len(tables.results)} run(s) at {len(tables.means)} point(s); tables and figures next to it", markup=False, highlight=False)


def parse_report(words: Sequence[str], parser: ArgumentParser) -> None:
    """Report on the words of a command line: the runs are bare words, with or without ``--runs`` in front."""
    parser.add_function_arguments(report, skip={"runs", "results"})
    parser.add_argument("runs", nargs="*", type=Path, default=[], help="Run folders, or folders that hold them at any depth, such as that of a sweep.")
    parser.add_argument("--results", "--from", type=Path, help="An earlier report's folder: page and figures are made from its tables, which runs join.")
    report(**parser.parse_args([word for word in words if word != "--runs"]).as_dict())
