import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lit_talr.report.analysis import analyse
from lit_talr.report.page import embed, page
from lit_talr.report.tables import Tables, collect
from tests.report.synthetic import write_run, write_sweep

EVIL = '</script><script>alert(1)</script><!--<img src="https://example.org/x.png" onerror=alert(1)>{{js}}'


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return collect([write_sweep(tmp_path_factory.mktemp("sweep"), rates=[1e-4, 1e-3], variants=["cot"], epochs=2, items=30)])


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_it_holds_every_number_of_the_tables(tables: Tables) -> None:
    data = data_of(page(tables, analyse(tables)))
    assert [row["name"] for row in data["results"]] == tables.results["name"].tolist()
    for name in ("domain", "general_lower", "drop_upper", "rate"):
        assert [row[name] for row in data["results"]] == [None if value != value else value for value in tables.results[name].tolist()]
    assert len(data["curves"]) == len(tables.curves) and set(data["tokens"]) == set(tables.tokens["name"])
    assert len(data["pairs"]["cot base"]) == len(tables.means) - 1
    own = data["tokens"]["cot-talr-1e-3-s1"]
    assert sum(own["bins"]["probe"]["epochs"]["2"]) == 4000 and len(own["bins"]["probe"]["edges"]) == 21
    assert len(own["cohorts"]) == 6 and own["course"][-1]["temperature"] == pytest.approx(2 / 3, abs=1e-5)


def test_nothing_is_loaded_from_anywhere(tables: Tables) -> None:
    text = page(tables, analyse(tables))
    assert "http://" not in text and "https://" not in text
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b", text) and not re.search(r"<script[^>]*\ssrc", text) and "@import" not in text
    assert "default-src 'none'" in text and "showSendToCloud: false" in text  # Plotly's own default has a button that uploads a chart
    packed = re.search(r'id="plotly">([A-Za-z0-9+/=]+)</script>', text)
    assert packed is not None and b"plotly.js v" in gzip.decompress(base64.b64decode(packed[1]))[:200]


def test_no_text_of_a_run_breaks_out(tmp_path: Path) -> None:
    trial = {"remedy": EVIL, "variant": EVIL, "rate": 1e-3, "commands": [EVIL]}
    write_run(tmp_path / "base", [1, 0], [1, 0, 1], remedy="base", variant=EVIL)
    write_run(tmp_path / EVIL.replace("/", "_"), [1, 0], [1, 0, 1], fit={}, **trial)
    tables, plain_tables = collect([tmp_path]), collect([tmp_path / "base"])
    text = page(tables, analyse(tables))
    plain = page(plain_tables, analyse(plain_tables))
    for mark in ("<script", "</script", "<!--", "<img"):
        assert text.count(mark) == plain.count(mark)
    assert data_of(text)["results"][1]["command"] == EVIL


def test_only_numbers_that_json_knows() -> None:
    assert json.loads(embed({"a": "</script>\u2028"})) == {"a": "</script>\u2028"} and "<" not in embed({"a": "</script>"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed([float("nan")])


def test_the_script_writes_no_html() -> None:
    script = (Path(__file__).parents[2] / "lit_talr" / "report" / "page.js").read_text()
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest"):
        assert forbidden not in script
