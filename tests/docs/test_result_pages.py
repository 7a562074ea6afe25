"""The pages of results say what these say, and their reports and figures are made from them."""

from pathlib import Path

import pytest

from docs.make_tables import PAGES, ROOT, filled
from lit_talr.cli.command_line import main


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_up_to_date(page: str) -> None:
    assert (ROOT / f"{page}.md").read_text(encoding="utf-8") == filled(page), "run `make docs`"
    assert sum(file.stat().st_size for file in (ROOT / page).glob("*.parquet")) < 5e6


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if (ROOT / page / "report.html").is_file()])
def test_page_and_figures_are_made_from_the_tables(tmp_path: Path, page: str) -> None:
    """Byte for byte, with the versions of constraints.txt."""
    folder = ROOT / page
    main(["report", "--from", str(folder), "--out", str(tmp_path / "report.html")])
    committed = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    assert {Path("report.html"), Path("results.parquet"), Path("figures/tradeoff.png")} <= committed
    assert {name for name in committed if (folder / name).read_bytes() != (tmp_path / name).read_bytes()} == set()
