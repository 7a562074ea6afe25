"""The notebooks run from top to bottom in a fresh kernel, print the package's numbers, and are committed with what they print.

``python -m tests.docs.test_notebooks`` runs them and keeps it.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from lit_talr.cli.command_line import main
from lit_talr.report.statistics import hypervolume
from lit_talr.report.tables import read_tables
from tests.helpers.tiny import save_tokenizer

ROOT = Path(__file__).parents[2]
FOLDER, STUDY = ROOT / "notebooks", ROOT / "docs" / "study"
NAMES = ("curriculum", "theory", "tradeoff")
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
MACHINE = re.compile(r"(?<![\w.])/(work\w*|tmp|home|root|Users|mnt|opt|usr|var)/|[A-Z]:\\\\|site-packages|ipykernel_\d")
"""What betrays the machine that a notebook ran on."""


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str, parameters: str | None = None, last: str | None = None) -> NotebookNode:
    """Run anew, with other parameters or one more cell; an error of a cell is an error here."""
    notebook = read(name)
    if parameters is not None:
        cell(notebook, "parameters").source = parameters
    if last is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(last, id="last"))
    client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(FOLDER)}})
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    notebook.metadata = METADATA
    return notebook


def values(name: str, expression: str) -> tuple[NotebookNode, Any]:
    """Run anew, and what an expression of JSON's types is at the end."""
    notebook = executed(name, last=f"import json\nprint(json.dumps({expression}))")
    return notebook, json.loads(texts(cell(notebook, "last")))


def cell(notebook: NotebookNode, name: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.id == name)


def texts(cell: NotebookNode) -> str:
    return "\n".join(output.text if output.output_type == "stream" else output.data.get("text/plain", "") for output in cell.outputs)


def numbers(cell: NotebookNode) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?", texts(cell))]


def figures(notebook: NotebookNode) -> list[str]:
    return [cell.id for cell in code(notebook) if any("image/png" in output.get("data", {}) for output in cell.outputs)]


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(autouse=True)
def nothing_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels keep a history and a connection file."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_as_it_ran(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)], "run `python -m tests.docs.test_notebooks`"
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert len(figures(notebook)) >= 5 and not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_betrays_no_machine(name: str) -> None:
    file = FOLDER / f"{name}.ipynb"
    assert file.stat().st_size < 400_000
    without_figures = re.sub(r'"image/png": "[^"]*"', "", file.read_text(encoding="utf-8"))
    assert MACHINE.search(without_figures) is None
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", without_figures):
        assert (FOLDER / link).exists(), link


def test_paths_of_machines_are_recognised() -> None:
    for path in ("/tmp/tmpab12/run", '"/workspace/x"', r"C:\\Users\\a", "lib/python3.11/site-packages/tqdm", "/home/a/x"):
        assert MACHINE.search(path)
    assert MACHINE.search("../docs/study https://arxiv.org/abs/1 runs/tmp/x and/or") is None


@pytest.mark.slow
def test_tradeoff() -> None:
    """Its hypervolumes are those of docs/study.md; all that it prints is what is stored."""
    notebook, volumes = values("tradeoff", "json.loads(volume_table.to_json(orient='records'))")
    lines = re.search(r"<!-- volumes -->\n(.*?)<!-- /volumes -->", (ROOT / "docs" / "study.md").read_text(encoding="utf-8"), re.DOTALL)
    assert lines is not None
    expected = {}
    for line in lines[1].splitlines()[2:]:
        remedy, *cells = (part.strip() for part in line.strip("|").split("|"))
        for variant, column, text in zip(("cot", "label") * 2, ("hypervolume",) * 2 + ("with_wise",) * 2, cells, strict=True):
            expected[variant, remedy, column] = None if text == "-" else pytest.approx(float(text), abs=5e-4)
    assert len(expected) == 24
    assert {(row["variant"], row["remedy"], column): row[column] for row in volumes for column in ("hypervolume", "with_wise")} == expected
    means = read_tables(STUDY).means
    base, points = (means[(means["variant"] == "cot") & (means["remedy"] == remedy)] for remedy in ("base", "l2"))
    area = hypervolume([*zip(points["domain"], points["general"], strict=True)], (float(base["domain"].iloc[0]), 0.0))
    assert expected["cot", "l2", "hypervolume"] == area
    for stored, fresh in zip(code(read("tradeoff")), code(notebook), strict=False):
        assert numbers(fresh) == pytest.approx(numbers(stored), abs=1e-3), stored.id
    row = means.set_index("point").loc["cot talr 5e-4"]
    assert f"{row['general']:.3f} ± {row['general_se']:.3f} [{row['general_lower']:.3f}, {row['general_upper']:.3f}]" in texts(cell(notebook, "means"))


EXPRESSION = """{
    "restored": restored == text,
    "coded": [sizes["the base"], sizes["its code length"]],
    "bits": [bits.tolist(), (nll / math.log(2)).tolist()],
    "sides": [sides.change, float(sides.by_level.sum()), sides.kl_change],
    "drifts": drifts.to_dict("list"),
    "costs": {name: [value.cost for value in values] for name, values in costs.items()},
    "safe": {name: [value.rate for value in values] for name, values in safe.items()},
}"""


@pytest.mark.slow
def test_theory() -> None:
    """The coder gives its text back, the proposition holds to the last digits, and both theorems show."""
    pytest.importorskip("constriction", reason="needs the extra `theory` (constriction)")
    notebook, found = values("theory", EXPRESSION)
    check_theory(found)
    stored = read("theory")
    for name in ("code-length", "coder", "texts", "proposition", "costs", "safe-rates"):  # those that no long chain of rounding leads to
        assert numbers(cell(notebook, name)) == pytest.approx(numbers(cell(stored, name)), rel=0.01, abs=1e-3), name


def check_theory(found: Mapping[str, Any]) -> None:
    assert found["restored"] is True
    coded, ideal = found["coded"]
    assert -8 < coded - 32 - ideal < 8
    assert found["bits"][0] == pytest.approx(found["bits"][1], rel=1e-5)
    assert found["sides"][0] < -0.1 and max(found["sides"]) - min(found["sides"]) < 1e-10
    drifts = found["drifts"]
    assert drifts["kl"] == sorted(drifts["kl"]) and drifts["general cost"] == sorted(drifts["general cost"]) and max(drifts["domain NLL"]) <= 0.3
    for change, kl, error in zip(drifts["change"], drifts["kl"], drifts["difference_error"], strict=True):
        assert abs(change - kl) < 3 * error
    for reading in ("logits", "ratio"):  # few large steps come first; many hard tokens come last
        assert found["costs"][reading] == sorted(found["costs"][reading], reverse=True)
        assert found["safe"][reading] == sorted(found["safe"][reading], reverse=True)
    assert max(found["costs"]["geometric"]) == pytest.approx(min(found["costs"]["geometric"]), rel=1e-8)


@pytest.mark.slow
def test_curriculum() -> None:
    """It draws its own small run, whose numbers are near the stored ones, and those of the study."""
    notebook, rows = values("curriculum", "json.loads(everything.to_json(orient='records'))")
    train, probe = ([row for row in rows if row["set"] == name] for name in ("train", "probe"))
    assert [row["epoch"] for row in probe] == [0, 1, 2, 3] and len({row["num_tokens"] for row in train}) == 1
    assert all(0 < row["talr/temperature"] < 1 and 0 < row["share_at_floor"] < row["weight"] < 1 for row in train)
    assert figures(notebook) == ["easy-share", "histograms", "cohorts", "loss-share", "weights", "study-figure"]
    summaries = [re.findall(r"^\|\s+0 \|.*", texts(cell(one, "summary")), re.MULTILINE) for one in (notebook, read("curriculum"))]
    assert summaries[0] == summaries[1] and f"{probe[0]['share_above']:.3f}" in summaries[0][0]
    tables = read_tables(STUDY)
    runs = tables.results.query("variant == 'cot' and remedy == 'talr' and rate == 2e-3")["name"]
    last = tables.tokens[tables.tokens["name"].isin(runs)].query("set == 'probe' and group == 'all' and epoch == 6")
    (line,) = re.findall(r"^talr .*", texts(cell(notebook, "study-table")), re.MULTILINE)
    assert float(line.split()[-1]) == pytest.approx(last["nll"].mean(), abs=5e-4)


@pytest.mark.slow
def test_curriculum_of_a_run_without_weights_or_temperature(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": "a", "response": "b" * length}) + "\n" for length in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    save_tokenizer(tmp_path / "tokenizer", "qwen2")
    words = ["-c", "configs/base.yaml", "-c", "configs/model/tiny.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/standard.yaml"]
    words += [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / "rows.jsonl"))]
    main(["fit", *words, "--model.tokenizer", str(tmp_path / "tokenizer"), "--trainer.max_epochs", "1", "--run", str(tmp_path / "run")])
    notebook = executed("curriculum", parameters=f"RUN = {str(tmp_path / 'run')!r}")
    assert len(figures(notebook)) == 6
    table = pd.read_parquet(tmp_path / "run" / "token_probability.parquet")
    assert f"{table[table['group'] == 'all']['nll'].iloc[0]:.3f}" in texts(cell(notebook, "summary"))


if __name__ == "__main__":
    for name in NAMES:
        nbformat.write(executed(name), FOLDER / f"{name}.ipynb")
