import json
from pathlib import Path

import pandas as pd
import pytest

from lit_talr.report.analysis import analyse
from lit_talr.report.command import report
from lit_talr.report.figures import forgetting
from lit_talr.report.page import page
from lit_talr.report.published import forgetting_columns, place_published, read_published
from lit_talr.report.tables import collect
from tests.report.synthetic import write_run

SHIPPED = Path(__file__).parents[2] / "docs" / "yardstick" / "peft_metamath.csv"
POINTS = "# a remark\nname,domain,forgetting,source\nlora r32,0.478,0.05,somewhere@1\n"


def test_published_points_are_on_the_page_and_stay_with_it(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(POINTS)
    table = place_published(tmp_path / "points.csv", None, tmp_path)
    assert table is not None and table.to_dict("records") == [{"name": "lora r32", "domain": 0.478, "forgetting": 0.05, "source": "somewhere@1"}]
    again = place_published(None, tmp_path, tmp_path)
    assert again is not None and again.equals(table)
    write_run(tmp_path / "run", domain=[1, 0, 1, 1], general=[1, 1, 1, 1])
    tables = collect([tmp_path / "run"])
    text = page(tables, analyse(tables), table).split('id="data">')[1].split("</script>")[0]
    assert json.loads(text)["published"] == table.to_dict("records")
    assert place_published(None, None, tmp_path) is None and not (tmp_path / "published.csv").exists()


def test_the_figure_has_runs_filled_and_published_points_hollow(tmp_path: Path) -> None:
    results = pd.DataFrame({"remedy": ["talr", "talr"], "domain": [0.4, 0.5], "drift/nll_rise/wiki": [0.01, None], "drift/nll_rise/none": [None, None]})
    assert forgetting_columns(results) == ["drift/nll_rise/wiki"] and forgetting(results[["remedy", "domain"]], None, {}) is None
    published = pd.DataFrame({"domain": [0.478], "forgetting": [0.05]})
    figure = forgetting(results, published, {"talr": "#0072b2"})
    assert figure is not None
    (axis,) = figure.axes
    filled, hollow = axis.collections
    assert filled.get_offsets().tolist()[0] == [0.4, 0.01] and len(filled.get_facecolors()) == 1
    assert hollow.get_offsets().tolist() == [[0.478, 0.05]] and len(hollow.get_facecolors()) == 0
    assert axis.yaxis_inverted()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,domain\nx,1\n", "has 1 points with the columns name, domain; give a CSV with the columns name, domain, forgetting, source"),
        ("name,domain,forgetting,source\n", "has 0 points"),
        ("name,domain,forgetting,source\nx,a lot,1,y\n", "point 1: `domain` is missing or no number"),
        ("name,domain,forgetting,source\nx,1,1,y\nz,1,1,\n", "point 2: `source` is missing"),
    ],
)
def test_what_is_no_file_of_points_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path / "points.csv")


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.csv cannot be read"):
        read_published(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="`published` is drawn on the page"):
        report([tmp_path], tmp_path / "tables", published=SHIPPED)


def test_the_shipped_points_are_a_file_of_points() -> None:
    table = read_published(SHIPPED)
    assert len(table) == table["name"].nunique() == 29 and table["domain"].between(0, 1).all()
    assert table["source"].str.match(r"huggingface/peft@[0-9a-f]{7}$").all()
