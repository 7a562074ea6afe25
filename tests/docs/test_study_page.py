"""docs/study.md says what its results say, and its page and figures are made from them."""

import importlib.util
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "study"


def test_the_tables_of_the_study_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_study", DOCS / "make_study.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    assert text == module.filled(text, module.read_tables(STUDY)), "run `make docs`"
    assert (STUDY / "results.parquet").stat().st_size < 5e6


@pytest.mark.slow
def test_its_page_and_figures_are_made_from_its_tables(tmp_path: Path) -> None:
    """Byte for byte, with the versions of constraints.txt."""
    main(["report", "--from", str(STUDY), "--out", str(tmp_path / "report.html")])
    committed = {file.relative_to(STUDY) for file in STUDY.rglob("*") if file.is_file()}
    assert {Path("report.html"), Path("results.parquet"), Path("figures/tradeoff.png")} <= committed
    assert {name for name in committed if (STUDY / name).read_bytes() != (tmp_path / name).read_bytes()} == set()
