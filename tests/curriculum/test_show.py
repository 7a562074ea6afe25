from pathlib import Path

import pytest
import torch
from tensorboard.plugin_util import markdown_to_safe_html

from lit_talr.curriculum.show import cohort_figure, curriculum, hardest_page, literal, loss_figure
from lit_talr.curriculum.token_groups import group_rows, write_table


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "**bold** | `code` | [a](javascript:b)", "1. item\n# head", "&lt;", "\n", "  ", "![x](http://y/z.png)"]
)
def test_texts_of_data_stay_texts(text: str) -> None:
    page = hardest_page([{"probability": 0.1, "start_probability": 0.2, "before": text, "token": text, "after": text}])
    shown = markdown_to_safe_html(page)
    assert shown.count("<td>") == 3 and shown.count("<strong>") == 1
    for tag in ("<script", "<a", "<img", "<code", "<h1", "<em"):
        assert tag not in shown


def test_line_breaks_and_blanks_are_visible() -> None:
    assert literal("a\nb") == "a⏎b"
    page = hardest_page([{"probability": 0.1, "start_probability": 0.2, "before": "it is", "token": " hours ", "after": ""}])
    assert "it is<strong>␣hours␣</strong>" in markdown_to_safe_html(page)
    page = hardest_page([{"probability": 0.1, "start_probability": 0.2, "before": "", "token": " ", "after": "a"}])
    assert "<strong>␣</strong>a" in markdown_to_safe_html(page)


def test_figures_are_drawn_from_rows_with_gaps() -> None:
    rows = [{"epoch": epoch, **row} for epoch in range(3) for row in group_rows(torch.ones(2, 7), "cohort", [0, 0.5, 1], weighted=True)]
    rows += [{"epoch": 3, **row} for row in group_rows(torch.zeros(2, 7), "cohort", [0, 0.5, 1], weighted=True)]
    assert len(cohort_figure(rows).axes[0].lines) == 2
    assert len(loss_figure(rows[-2:], "title").axes[0].patches) == 6


def test_the_table_has_a_line_for_each_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sums = torch.tensor([[4.0, 1.0, 8.0, 2.0, 1.0, 3.0, 1.0], [0.0] * 7])
    rows = []
    for epoch in range(4):
        rows += [{"epoch": epoch, "set": "probe", **row} for row in group_rows(sums[:1], "all", [0, 1])]
        rows += [{"epoch": epoch, "set": "probe", **row} for row in group_rows(sums, "cohort", [0, 0.5, 1])]
        if epoch:
            row = group_rows(sums[:1], "all", [0, 1], weighted=True, floored=True)[0]
            rows.append({"epoch": epoch, "set": "train", **row, "talr/temperature": 0.5})
    write_table(tmp_path / "some" / "token_probability.parquet", [{"threshold": 0.2, **row} for row in rows])
    curriculum(tmp_path, every=2)
    printed = capsys.readouterr().out
    assert str(tmp_path / "some") in printed and "p0 0-0.5 " in printed and "train p>0.2" in printed and "0.5-1" not in printed
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert lines[2:] == [
        ["tokens", "", "", "", "", "", "", "4"],
        ["0", "", "", "", "", "0.750", "2.000", "0.250"],
        ["2", "0.750", "0.250", "0.500", "0.500", "0.750", "2.000", "0.250"],
        ["3", "0.750", "0.250", "0.500", "0.500", "0.750", "2.000", "0.250"],
    ]


def test_a_run_without_token_statistics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no token_probability.parquet"):
        curriculum(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "token_probability.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken/token_probability.parquet is damaged .*; restore it from a copy, or move it away"):
        curriculum(tmp_path / "broken")


def test_a_period_below_1_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "token_probability.parquet", [{"epoch": 0}])
    with pytest.raises(ValueError, match="`every` must be at least 1, got 0"):
        curriculum(tmp_path, every=0)
