"""The page in a browser, where there is one: what its script makes of the tables."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lit_talr.report import report
from tests.report.synthetic import write_run, write_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000")
EVIL = "<img src=x onerror=document.title='broken'>"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

# Appended to a copy of the page: acts once it has drawn itself, and leaves what it saw in the document.
ACT = """<script type="module">
const wait = () => new Promise((done) => setTimeout(done, 50));
while (!document.body.dataset.ready) await wait();
const changed = (e) => ["input", "change"].forEach((name) => e.dispatchEvent(new Event(name, { bubbles: true })));
const set = (id, value) => { const e = document.getElementById(id); e[e.type === "checkbox" ? "checked" : "value"] = value; changed(e); };
const box = (of, value) => [...document.querySelectorAll(`#${of} input`)].find((each) => each.value === value);
const tick = (of, value, on) => { const e = box(of, value); e.checked = on; changed(e); };
const rows = (id) => [...document.querySelectorAll(`#${id} tbody tr`)].map((line) => [...line.children].map((cell) => cell.textContent));
const head = (id) => [...document.querySelectorAll(`#${id} thead th`)].map((cell) => cell.textContent);
const points = () => document.getElementById("tradeoff-plot").data.filter((t) => t.mode === "markers").reduce((n, t) => n + t.x.length, 0);
const traces = (id) => document.getElementById(id).data.map((t) => t.name);
const seen = {};
/* STEPS */
const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
</script></body>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    out = write_sweep(folder / "runs", ["standard", "talr"], rates=[1e-4, 1e-3], seeds=[0, 1], variants=["cot", "label"], alphas=[0.5], epochs=2, items=30)
    write_run(out / "odd", [1, 0, 1], fit={}, variant="cot", remedy=EVIL, rate=1e-3, seed=0, commands=[EVIL])
    report([out], folder / "out" / "page.html")
    return folder / "out"


def visit(made: Path, tmp_path: Path, steps: str, width: int = 1280) -> tuple[dict[str, Any], str, str]:
    """What the steps saw, the document afterwards, and what the browser complained about."""
    page = tmp_path / "page.html"
    page.write_text((made / "page.html").read_text().replace("</body>", ACT.replace("/* STEPS */", steps)))
    command = [str(CHROMIUM), *FLAGS, f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1])), done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_the_table_is_that_of_results_parquet(made: Path, tmp_path: Path) -> None:
    steps = 'set("variant", "*"); seen.head = head("results"); seen.rows = rows("results"); seen.images = document.images.length;'
    seen, document, complaints = visit(made, tmp_path, steps)
    results = pd.read_parquet(made / "results.parquet")
    table = pd.DataFrame(seen["rows"], columns=seen["head"])
    assert complaints == "" and table["name"].tolist() == results["name"].tolist()
    for column in ("domain", "general", "drop"):
        shown = ["" if pd.isna(value) else f"{value:.3f}" for value in results[column]]
        shown = [
            text + ("" if pd.isna(lower) else f" [{lower:.3f}, {upper:.3f}]")
            for text, lower, upper in zip(shown, results[f"{column}_lower"], results[f"{column}_upper"], strict=True)
        ]
        assert [text.replace("-0.000", "0.000") for text in table[column]] == [text.replace("-0.000", "0.000") for text in shown]
    assert table["arithmetic"].tolist() == ["" if pd.isna(value) else f"{value:.3f}" for value in results["general/arithmetic"]]
    assert table["command"].tolist() == results["command"].tolist()
    assert "<title>Domain against general ability</title>" in document and seen["images"] == 0


def test_filters_change_plots_and_tables(made: Path, tmp_path: Path) -> None:
    steps = """
    const bars = () => document.getElementById("volume-plot").data[0].x;
    const take = (name) => { seen[name] = { runs: rows("results").length, points: points(), rates: traces("rate-general"), volumes: bars() }; };
    take("start"); set("show", "seeds"); take("seeds"); set("wise", false); take("trained"); tick("remedies", "talr", false); take("standard");
    tick("seeds", "1", false); take("one"); set("to", "0.0001"); take("slow"); set("variant", "label"); take("label");
    """
    seen, _, complaints = visit(made, tmp_path, steps)
    assert complaints == ""
    # cot: a base, 2 remedies x 2 rates x 2 seeds, 4 of Wise-FT, and the odd one, which has no general score; published numbers are hollow markers
    assert (seen["start"]["runs"], seen["start"]["points"]) == (14, 1 + 4 + 2 + 1)
    assert seen["start"]["rates"] == ["standard", "talr", "base"] and seen["start"]["volumes"] == ["standard", "talr"]
    assert (seen["seeds"]["runs"], seen["seeds"]["points"]) == (14, 1 + 8 + 4 + 1)
    assert (seen["trained"]["runs"], seen["trained"]["points"]) == (10, 1 + 8 + 1)
    assert (seen["standard"]["runs"], seen["standard"]["rates"], seen["standard"]["volumes"]) == (6, ["standard", "base"], ["standard"])
    assert seen["one"]["runs"] == 4 and seen["slow"]["runs"] == 2 and seen["label"]["runs"] == 2


def test_bars_are_whole_and_each_rate_is_named(made: Path, tmp_path: Path) -> None:
    steps = """
    const spans = (id, letter) => {
      const { data, layout } = document.getElementById(id);
      const bars = data.map((t) => [t[letter], t[`error_${letter}`]]).filter(([, bar]) => bar?.visible);
      const ends = bars.flatMap(([values, bar]) => values.flatMap((v, i) => [v - bar.arrayminus[i], v + bar.array[i]]));
      return [Math.min(...ends), Math.max(...ends), ...layout[`${letter}axis`].range];
    };
    const take = (name) => { seen[name] = [["tradeoff-plot", "x"], ["tradeoff-plot", "y"], ["rate-domain", "y"]].map((each) => spans(...each)); };
    take("items"); set("bars", "seeds"); take("seeds");
    seen.ticks = document.getElementById("rate-general").layout.xaxis.ticktext;
    """
    seen, _, complaints = visit(made, tmp_path, steps)
    assert complaints == "" and seen["ticks"] == ["1e-4", "1e-3"]
    for least, most, low, high in seen["items"]:
        assert low < least < most < high
    for least, most, low, high in seen["seeds"]:  # two seeds: wider than the plane of scores, which is shown
        assert low < max(0, least) < min(1, most) < high and -0.1 < low < high < 1.1


def test_hover_says_configuration_numbers_and_command(made: Path, tmp_path: Path) -> None:
    steps = """
    seen.text = document.getElementById("tradeoff-plot").data.find((t) => t.name === "talr").text[0];
    Plotly.Fx.hover("tradeoff-plot", [{ curveNumber: document.getElementById("tradeoff-plot").data.findIndex((t) => t.name === "talr"), pointNumber: 0 }]);
    await wait(); await wait();
    seen.shown = document.querySelector("#tradeoff-plot .hoverlayer").textContent;
    """
    seen, _, complaints = visit(made, tmp_path, steps)
    assert complaints == "" and "cot talr 1e-4" in seen["text"] and "mean of seeds 0, 1" in seen["text"] and "lit-talr fit -c configs/base.yaml" in seen["text"]
    assert "cot talr 1e-4" in seen["shown"] and "domain" in seen["shown"]


def test_matched_scores_sorting_and_comparisons(made: Path, tmp_path: Path) -> None:
    steps = """
    set("level", "0.3"); seen.head = head("matched"); seen.matched = rows("matched");
    const heading = (name) => [...document.querySelectorAll("#results th button")].find((b) => b.textContent === name);
    heading("domain").click(); seen.up = rows("results").map((r) => r[7]); heading("domain").click(); seen.down = rows("results").map((r) => r[7]);
    heading("general").click(); seen.last = rows("results").at(-1)[0];
    seen.comparison = Object.fromEntries(rows("comparison").map((r) => [r[0], r.slice(6)]));
    set("reference", "*base"); seen.base = rows("comparison").map((r) => r.at(-1));
    """
    seen, _, complaints = visit(made, tmp_path, steps)
    assert complaints == ""
    curves = pd.read_parquet(made / "curves.parquet")
    for _, remedy, rate, reached, epoch, general, *_ in seen["matched"]:
        found = [at_level(curves[curves["name"] == f"cot-{remedy}-{rate}-s{seed}"].dropna(), 0.3) for seed in (0, 1)]
        known = [each for each in found if each is not None]
        assert reached == f"{len(known)} of 2"
        if len(known) == 2:
            assert float(epoch) == pytest.approx(sum(each[1] for each in known) / 2, abs=0.051)
            assert float(general) == pytest.approx(sum(each[0] for each in known) / 2, abs=0.00051)
    assert any(row[3] == "2 of 2" for row in seen["matched"])
    assert [float(text.split()[0]) for text in seen["up"]] == sorted(float(text.split()[0]) for text in seen["up"]) and seen["up"] != seen["down"]
    assert seen["last"] == "odd"  # what is missing comes last
    assert seen["comparison"]["cot standard 1e-3"] == ["", "", "itself"] and seen["comparison"]["cot talr 1e-3"][2] == "cot standard 1e-3"
    pair = pd.read_parquet(made / "pairs.parquet").set_index(["reference", "point"]).loc[("cot standard 1e-3", "cot talr 1e-3")]
    assert seen["comparison"]["cot talr 1e-3"][1] == f"{pair['general']:.3f} [{pair['general_lower']:.3f}, {pair['general_upper']:.3f}]"
    assert "cot base" in seen["base"] and "itself" in seen["base"]


def at_level(curve: pd.DataFrame, level: float) -> tuple[float, float] | None:
    before = None
    for row in curve.sort_values("epoch").itertuples():
        if row.domain >= level:
            if before is None:
                return row.general, row.epoch
            part = (level - before.domain) / (row.domain - before.domain)
            return before.general + part * (row.general - before.general), before.epoch + part * (row.epoch - before.epoch)
        before = row
    return None


def test_downloads_are_the_tables_that_are_shown(made: Path, tmp_path: Path) -> None:
    steps = """
    const blobs = []; const own = URL.createObjectURL; URL.createObjectURL = (blob) => { blobs.push(blob.text()); return own(blob); };
    HTMLAnchorElement.prototype.click = () => {};
    for (const button of document.querySelectorAll("button[data-table=results]")) button.click();
    [seen.csv, seen.tex] = await Promise.all(blobs);
    """
    seen, _, complaints = visit(made, tmp_path, steps)
    (tmp_path / "shown.csv").write_text(seen["csv"])
    shown, results = pd.read_csv(tmp_path / "shown.csv"), pd.read_parquet(made / "results.parquet")
    results = results[results["variant"] == "cot"].reset_index(drop=True)
    assert complaints == "" and shown["name"].tolist() == results["name"].tolist()
    for name in ("domain", "domain_lower", "general_upper", "val/nll"):
        pd.testing.assert_series_equal(shown[name], results[name], check_dtype=False)
    assert seen["tex"].count(r" \\") == 1 + len(results) and r"\begin{tabular}{llll" in seen["tex"]


def test_complaints_would_be_seen(made: Path, tmp_path: Path) -> None:
    _, _, complaints = visit(made, tmp_path, 'console.error("alas"); fetch("https://example.org/").catch(() => {});')
    assert "alas" in complaints and "Content Security Policy" in complaints


@pytest.mark.parametrize("width", [1280, 500])  # Chromium's windows are no narrower
def test_nothing_scrolls_sideways(made: Path, tmp_path: Path, width: int) -> None:
    seen, _, complaints = visit(made, tmp_path, "seen.width = document.documentElement.scrollWidth; seen.window = innerWidth;", width)
    assert complaints == "" and seen["width"] <= seen["window"]
