from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lit_talr.cli.command_line import main
from lit_talr.report import command, report
from lit_talr.report.analysis import Analysis
from lit_talr.report.tables import Tables
from tests.report.synthetic import write_run, write_sweep


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report by the command line."""
    folder = tmp_path_factory.mktemp("made")
    write_sweep(folder / "runs", ["standard", "talr"], rates=[1e-3], seeds=[0, 1], variants=["a_b"], alphas=[0.5], epochs=1, items=12)
    main(["report", str(folder / "runs"), "--out", str(folder / "out" / "page.html")])
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_page_tables_and_figures_are_written(made: Path) -> None:
    drawn = ("hypervolume", "matched", "rates", "tokens", "tradeoff", "training", "transitions")
    names = [f"figures/{name}.{kind}" for name in drawn for kind in ("pdf", "png")]
    tables = [f"{name}.parquet" for name in (*Tables._fields, *Analysis._fields)]
    found = files(made / "out")
    assert sorted(found) == sorted([*names, *tables, "page.html", "results.csv", "results.tex"])
    assert all(found[name].startswith(b"\x89PNG" if name.endswith("png") else b"%PDF") for name in names)
    results = pd.read_parquet(made / "out" / "results.parquet")
    assert len(results) == 7 and str(made) not in results.to_csv()
    pd.testing.assert_frame_equal(pd.read_csv(made / "out" / "results.csv")[["domain", "general_lower"]], results[["domain", "general_lower"]])
    latex = (made / "out" / "results.tex").read_text()
    assert latex.count(r" \\") == 1 + 4 and r"a\_b & wise-ft (standard) & 1e-3 & 0.5 & 2 & 0." in latex


@pytest.mark.slow
def test_the_tables_alone_give_the_same_bytes(made: Path) -> None:
    main(["report", "--from", str(made / "out"), "--out", str(made / "again" / "page.html")])
    assert files(made / "again") == files(made / "out")


def test_nothing_absolute_is_in_the_page(made: Path) -> None:
    assert str(made) not in (made / "out" / "page.html").read_text()


def test_one_run_without_anything_more_gives_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "only", [1, 0, 1], remedy="$odd_{", variant="$")
    report([tmp_path], tmp_path / "out" / "page.html")
    assert capsys.readouterr().out.splitlines()[-1].endswith("page.html: 1 run(s) at 1 point(s); tables and figures next to it")
    assert r"\$ & \$odd\_\{ &" in (tmp_path / "out" / "results.tex").read_text()


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["a", "b", "--out", "x.html"], {"runs": ["a", "b"], "out": "x.html"}),
        (["--out", "x.html", "a"], {"runs": ["a"], "out": "x.html"}),
        (["--runs", "a", "b", "--out=x.html"], {"runs": ["a", "b"], "out": "x.html"}),
        (["--from", "old"], {"results": "old"}),
        (["--from=old"], {"results": "old"}),
    ],
)
def test_bare_words_are_the_runs(words: list[str], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, Any]] = []

    def reported(runs: list[Path] | None = None, out: Path = Path("report/report.html"), results: Path | None = None) -> None:
        reports.append({"runs": [str(run) for run in runs or []], "out": str(out), "results": results and str(results)})

    monkeypatch.setattr(command, "report", reported)
    main(["report", *words])
    assert reports == [{"runs": [], "out": "report/report.html", "results": None, **arguments}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`report` needs run folders, or `--from` the folder of an earlier report, or both"),
        ({"runs": [Path("run")], "results": Path("old")}, "`from`: old has no results.parquet"),
        (
            {"runs": [Path("run")], "out": Path("page.pdf")},
            "`out` must be the name of the page, such as report.html, or a folder for the tables alone, got page.pdf",
        ),
        ({"runs": [Path("nowhere")]}, "nowhere: no such folder"),
        ({"results": Path("run")}, "`from`: run has no results.parquet; name the folder of an earlier report"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), [1, 0], remedy="talr")
    with pytest.raises(ValueError, match=message):
        report(**arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_on_the_command_line_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["report"], ["report", str(tmp_path / "none")], ["report", str(tmp_path), "--ouf", "x.html"], ["report", "a", "--out", "x", "--out=y"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        error = capsys.readouterr().err
        assert stop.value.code == 1 and error.count("\n") == 1 and error.startswith("lit-talr: ")
