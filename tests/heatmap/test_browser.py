"""The page in a browser, where there is one: what its script makes of texts and numbers."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lit_talr.heatmap import heatmap
from tests.heatmap.conftest import EVIL
from tests.heatmap.test_command import data_of, learned

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--window-size=1300,1000")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

# Holds the page, since Chromium's windows are 500 wide at least, and keeps what it tells.
FRAME = """<!DOCTYPE html><body style="margin: 0"><iframe src="copy.html" width="WIDTH" height="900" style="border: 0"></iframe><script>
onmessage = (event) => { const out = document.createElement("pre"); out.id = "seen"; out.textContent = event.data; document.body.append(out); };
</script></body>"""
# Appended to a copy of the page: acts once it has drawn itself, and tells what it saw.
ACT = """<script type="module">
const wait = () => new Promise((done) => setTimeout(done, 50));
while (!document.body.dataset.ready) await wait();
const all = [...document.querySelectorAll(".token")];
const of = (model) => all.filter((token) => token.dataset.model === model);
const box = document.getElementById("box");
const cells = (line) => [...line.cells].map((cell) => cell.textContent);
const lines = () => Object.fromEntries([...box.querySelectorAll("tbody tr")].map(cells).map(([name, ...numbers]) => [name, numbers]));
const mouse = (token, name) => token.dispatchEvent(new MouseEvent(name, { bubbles: true }));
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const colour = (value) => document.querySelector(`input[value=${value}]`).click();
const at = () => [document.activeElement.dataset.model, Number(document.activeElement.dataset.index)];
const seen = {};
/* STEPS */
parent.postMessage(JSON.stringify(seen), "*");
</script></body>"""


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "page.html"
    heatmap(run, out=out)
    return out


def visit(page: Path, steps: str, width: int = 1280) -> tuple[dict[str, Any], str]:
    """What the steps saw, and what the browser complained about."""
    page.with_name("copy.html").write_text(page.read_text().replace("</body>", ACT.replace("/* STEPS */", steps)))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1])), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_tokens_are_shown_coloured_and_explained(made: Path) -> None:
    steps = """
    seen.title = document.title; seen.texts = of("base").map((token) => token.textContent); seen.same = of("tuned").map((token) => token.textContent);
    seen.scripts = document.scripts.length; seen.images = document.images.length;
    const paints = () => [of("base"), of("tuned")].map((tokens) => tokens.map((token) => token.style.background));
    seen.probability = paints(); colour("weight"); seen.weight = paints(); colour("change"); seen.change = paints(); colour("probability");
    seen.hidden = box.hidden; mouse(of("tuned")[1], "mouseover");
    seen.name = box.querySelector("p").textContent; seen.lines = lines(); seen.shown = !box.hidden && box.getBoundingClientRect().height > 50;
    seen.twin = [...document.querySelectorAll(".other")].map((token) => [token.dataset.model, token.dataset.index]);
    mouse(of("tuned")[1], "mouseout"); seen.gone = box.hidden && !document.querySelector(".other, .here");
    """
    seen, complaints = visit(made, steps)
    data = data_of(made)
    assert complaints == "" and seen["title"] == "Tokens under the base and the tuned model" and (seen["scripts"], seen["images"]) == (3, 0)
    texts = [token if isinstance(token, str) else token[0] for part in learned(data) for token in part["tokens"]]
    assert seen["texts"] == seen["same"] == texts and EVIL in "".join(texts).replace("␣", " ")
    first = learned(data)[0]
    assert seen["hidden"] and seen["shown"] and seen["name"] == "part 2 of 2 of “é”" and seen["twin"] == [["base", "1"]] and seen["gone"]
    assert seen["lines"]["rank"] == [f"{first[model]['rank'][1]:,}" for model in ("base", "tuned")]
    for index, model in enumerate(("base", "tuned")):
        assert float(seen["lines"]["log p (nats)"][index].replace("−", "-")) == pytest.approx(-first[model]["nll"][1], abs=6e-4)
        assert float(seen["lines"]["entropy (nats)"][index]) == pytest.approx(first[model]["entropy"][1], abs=6e-4)
        assert float(seen["lines"]["TALR weight"][index]) == pytest.approx(first[model]["weight"][1], abs=6e-4)
    change = first["base"]["nll"][1] - first["tuned"]["nll"][1]
    assert float(seen["lines"]["change of log p"][1].replace("−", "-")) == pytest.approx(change, abs=6e-3)
    assert seen["change"][0] == seen["change"][1] and seen["probability"][0] != seen["probability"][1]
    assert seen["probability"] != seen["weight"] != seen["change"] and all(colour.startswith("rgb(") for side in seen["weight"] for colour in side)


def test_the_keyboard_goes_everywhere(made: Path) -> None:
    steps = """
    seen.stops = of("base").filter((token) => token.tabIndex === 0).length;
    of("base")[0].focus(); press("ArrowRight"); seen.right = at(); seen.text = box.querySelector("p").textContent;
    press("ArrowDown"); seen.down = at(); press("ArrowLeft"); press("ArrowLeft"); seen.left = at(); press("ArrowUp"); press("End"); seen.end = at();
    press("Home"); seen.home = at(); seen.tabs = of("base").filter((token) => token.tabIndex === 0).length;
    seen.described = document.activeElement.getAttribute("aria-describedby");
    mouse(of("base")[3], "mouseover"); mouse(of("base")[3], "mouseout"); seen.back = box.querySelector("p").textContent;
    press("Escape"); seen.closed = box.hidden;
    """
    seen, complaints = visit(made, steps)
    assert complaints == "" and seen["stops"] == seen["tabs"] == 4
    assert (seen["right"], seen["down"], seen["left"], seen["home"]) == (["base", 1], ["tuned", 1], ["tuned", 0], ["base", 0])
    assert seen["end"] == ["base", len(learned(data_of(made))[0]["tokens"]) - 1]
    assert seen["text"] == "part 2 of 2 of “é”" and seen["described"] == "box" and seen["back"] == "part 1 of 2 of “é”" and seen["closed"]


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_scrolls_sideways(made: Path, width: int) -> None:
    steps = "seen.width = document.documentElement.scrollWidth; seen.window = innerWidth; seen.columns = of('base')[0].getBoundingClientRect().top"
    seen, complaints = visit(made, steps + " === of('tuned')[0].getBoundingClientRect().top;", width)
    assert complaints == "" and seen["width"] <= seen["window"] <= width and seen["columns"] == (width == 1280)
