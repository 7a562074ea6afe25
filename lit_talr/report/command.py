"""``lit-talr report``: reads runs, writes tables, figures and a page."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jsonargparse import ArgumentParser
from rich.console import Console

from lit_talr.report.analysis import analyse
from lit_talr.report.figures import write_figures
from lit_talr.report.latex import latex_table
from lit_talr.report.page import page
from lit_talr.report.published import place_published
from lit_talr.report.tables import Tables, collect, read_tables, write_tables
from lit_talr.utils.files import write_bytes, write_text


def report(runs: list[Path] | None = None, out: Path = Path("report/report.html"), results: Path | None = None, published: Path | None = None) -> None:
    """Show what runs gain on their domain and what they lose in general: ``lit-talr report RUNS... --out report/report.html``.

    Next to the page it writes its tables (results.parquet, .csv and .tex, and the other data of the page), what it computes from them, and figures/ as PNG
    and PDF. It replaces the files of an earlier report there.

    Args:
        runs: Run folders, or folders that hold them at any depth, such as that of a sweep; each a word of its own.
        out: The page, a name that ends in .html; the other files are written next to it. A folder instead gets the tables alone.
        results: The folder of an earlier report; page and figures are made again from its tables. Where runs are given too, they join those of the tables, and
            take the place of those of their names. ``--from`` is the same.
        published: A CSV of published points (name, domain, forgetting, source), drawn hollow where domain score and forgetting on a corpus are.

    Raises:
        ValueError: For neither runs nor results; a name of another ending; a folder that holds no tested run or no tables; two runs
            of the same point and seed; published points that cannot be read, or without a page.
    """
    if not runs and not results:
        raise ValueError("`report` needs run folders, or `--from` the folder of an earlier report, or both.")
    only_tables = out.is_dir() or not out.suffix
    if out.suffix != ".html" and not only_tables:
        raise ValueError(f"`out` must be the name of the page, such as report.html, or a folder for the tables alone, got {out}.")
    folder = out if only_tables else out.parent
    if only_tables and published is not None:
        raise ValueError(f"`published` is drawn on the page, and {out} gets the tables alone; name a page, such as report.html, or leave it out.")
    if runs:
        write_tables(folder, collect(runs, read_tables(results) if results else None)._asdict())
    tables = read_tables(folder if runs or not results else results)  # also what was just written, so that the page does not depend on the runs
    if results and not runs:
        for file in (results / f"{name}.parquet" for name in Tables._fields):
            if file.is_file():
                write_bytes(folder / file.name, file.read_bytes())
    if not only_tables:
        write_page(tables, out, place_published(published, results, folder))
    console = Console(soft_wrap=True)
    for name, sentence in zip(tables.notes["name"], tables.notes["sentence"], strict=True):
        console.print(f"{name}: {sentence}", markup=False, highlight=False)
    rest = "only the tables" if only_tables else "tables and figures next to it"
    console.print(f"{out}: {len(tables.results)} run(s) at {len(tables.means)} point(s); {rest}", markup=False, highlight=False)


def write_page(tables: Tables, out: Path, published: pd.DataFrame | None = None) -> None:
    """Write the page, and next to it the figures, the tables of the analysis, and the results as CSV and LaTeX."""
    analysis = analyse(tables)
    write_tables(out.parent, analysis._asdict())
    write_text(out.parent / "results.csv", tables.results.to_csv(index=False))
    write_text(out.parent / "results.tex", latex_table(tables.means))
    write_figures(tables, analysis, out.parent / "figures", published)
    write_text(out, page(tables, analysis, published))


def parse_report(words: Sequence[str], parser: ArgumentParser) -> None:
    """Report on the words of a command line: the runs are bare words, with or without ``--runs`` in front."""
    parser.add_function_arguments(report, skip={"runs", "results"})
    parser.add_argument("runs", nargs="*", type=Path, default=[], help="Run folders, or folders that hold them at any depth, such as that of a sweep.")
    parser.add_argument("--results", "--from", type=Path, help="An earlier report's folder: page and figures are made from its tables, which runs join.")
    report(**parser.parse_args([word for word in words if word != "--runs"]).as_dict())
