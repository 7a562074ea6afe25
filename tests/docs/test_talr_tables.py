"""The tables and figures of docs/when_talr_helps.md, of a study that is half done."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from docs.tables.talr_cells import Cells, Point, gaps_at_match, read_cells
from docs.tables.talr_figures import draw_talr
from docs.tables.when_talr_helps import FIGURES, TABLES, over_seeds, talr_tables, variants
from lit_talr.report import report
from tests.report.synthetic import write_run

SUITES = ("add", "sort")
TALR, STANDARD = (Point("words-0.1", remedy, 2e-3) for remedy in ("talr", "standard"))


def write_tokens(folder: Path) -> None:
    """Two epochs as TokenProbability writes them, as far as they are read here."""
    rows: list[dict[str, Any]] = []
    for epoch in (0, 1, 2):
        groups = {"noise": (10, 16.0 - epoch, 0.1, 0.2), "hard": (30, 8.0 - 2 * epoch, 0.3, 0.5), "easy": (60, 0.01, 1.0, 0.3), "between": (0, None, None, 0.0)}
        for group, (count, nll, weight, share) in groups.items():
            rows.append({"epoch": epoch, "set": "probe", "group": group, "num_tokens": count, "nll": nll, "weight": weight, "gradient_share": share})
        rows.append({"epoch": epoch, "set": "probe", "group": "all", "num_tokens": 100, "nll": 3.0, "sequence_median": 2.0})
        if epoch:
            rows.append({"epoch": epoch, "set": "train", "group": "all", "num_tokens": 100, "nll": 3.0, "talr/temperature": 4.0 / epoch})
    columns = ["lower", "upper", "probability", "share_above", "share_at_floor", "base_nll", "sequence_median"]
    table = pd.DataFrame(rows)
    table = table.assign(threshold=0.2, **{name: None for name in columns if name not in table})
    table.to_parquet(folder / "token_probability.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise words .1 at two rates and two seeds, TALR at one; clean rows with one run."""
    runs = tmp_path_factory.mktemp("runs")

    def run(variant: str, remedy: str, rate: float | None, seed: int | None, domain: list[int], general: list[int]) -> None:
        name = "-".join(str(part) for part in (variant, remedy, rate, seed) if part is not None)
        write_run(
            runs / name, domain, general, suites=SUITES, variant=variant, remedy=remedy, rate=rate, seed=seed, base=f"{variant.removesuffix('-2-epochs')}-base"
        )
        write_tokens(runs / name)

    for variant in ("words-0.1", "clean"):
        run(variant, "base", None, None, [0, 0, 0, 0], [1, 1, 1, 1])
    for seed in (0, 1):
        run("words-0.1", "standard", 1e-3, seed, [1, 0, 0, 0], [1, 1, 1, 0])
        run("words-0.1", "standard", 2e-3, seed, [1, 1, 1, 0], [1, 0, 0, 0])
        run("words-0.1", "talr", 2e-3, seed, [1, 1, 0, seed], [1, 1, 1, 0])
        run("words-0.1-2-epochs", "standard", 2e-3, seed, [1, 1, 0, 0], [1, 1, 1, 1])
    run("clean", "talr", 2e-3, 0, [1, 1, 1, 1], [1, 1, 1, 1])
    out = tmp_path_factory.mktemp("study") / "when_talr_helps"
    report([runs], out)
    return out


def lines(folder: Path, name: str) -> list[list[str]]:
    """The cells of a table below its head."""
    return [line.strip("| ").split(" | ") for line in talr_tables(folder)[name].splitlines()[2:]]


def test_no_results_yet(tmp_path: Path) -> None:
    assert talr_tables(tmp_path) == dict.fromkeys((*TABLES, *FIGURES), "No results yet.")
    draw_talr(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_differences_at_the_same_rate_by_hand(folder: Path) -> None:
    by_seed = lines(folder, "claim")
    assert [line[:4] for line in by_seed] == [
        ["words-0.1", "2e-3", "0", ".750 / .250"],
        ["words-0.1", "2e-3", "1", ".750 / .250"],
        ["words-0.1", "2e-3", "all", ""],
    ]
    assert [line[4].split()[0] for line in by_seed] == ["-.250", "+.000", "-.125"]
    assert [line[5].split()[0].strip("*") for line in by_seed] == ["+.500"] * 3 and by_seed[0][6:] == ["-", "-"]
    (pooled,) = lines(folder, "everywhere")
    assert pooled[:5] == ["words-0.1", "2e-3", "2", ".750 / .250", ".625 / .750"]


def test_the_match_lies_on_standards_curve_and_is_marked_beyond_it(folder: Path) -> None:
    # TALR has .625 / .75; Standard .25 / .75 at 1e-3 and .75 / .25 at 2e-3: .375 where its domain score is .625
    (line,) = lines(folder, "matched")
    assert line[2] == "2" and line[3].strip("*").startswith("+.375 [")
    beyond, below = [[0.0, 0.9], [0.4, 0.5], [0.2, 0.4], [0.5, 0.7]], [[0.1, 0.9], [0.4, 0.5], [0.2, 0.4], [0.05, 0.7]]
    gaps, reached = gaps_at_match(np.array([beyond, below]))
    assert gaps == pytest.approx([0.2, -0.2]) and reached.tolist() == [False, True], "the second lies at most at the base model's domain score"


def test_skills_and_intervals_over_seeds_by_hand(folder: Path) -> None:
    (line,) = lines(folder, "skills")  # TALR has 1, 1 and 1, 0 right, Standard 1, 0 and 0, 0
    assert line[:3] == ["words-0.1", "2e-3", "2"] and [cell.split()[0].strip("*") for cell in line[3:]] == ["+.500", "+.500"]
    by_seed = read_cells(folder).by_seed(TALR, STANDARD)  # domain: -.25 and 0
    assert over_seeds(by_seed, "domain") is None
    found = over_seeds({**by_seed, 2: by_seed[0]}, "domain")
    assert found is not None and found[:3] == pytest.approx((-1 / 6, -1 / 6 - 4.303 / 12, -1 / 6 + 4.303 / 12), abs=1e-3)


@pytest.mark.slow
def test_rivals_of_other_lengths_are_compared_with_talr(folder: Path) -> None:
    other, small, large = sorted(lines(folder, "rivals"), key=lambda line: (line[0] == "words-0.1", line[2] != "1e-3"))
    assert other[:5] == ["words-0.1-2-epochs", "standard", "2e-3", "2", ".500 / 1.000"] and other[7:] == ["-", "-"]
    assert [cell.split()[0].strip("*") for cell in other[5:7]] == ["+.125", "-.250"]
    assert small[:3] == ["words-0.1", "standard", "1e-3"] and large[:3] == ["words-0.1", "standard", "2e-3"]


@pytest.mark.slow
def test_tokens_and_temperature(folder: Path) -> None:
    talr = {line[2]: line[3:] for line in lines(folder, "tokens") if line[:2] == ["words-0.1", "talr"]}
    assert talr == {
        "noise": [".100", "16.000", "14.000", ".100", ".100", ".200", ".200"],
        "hard": [".300", "8.000", "4.000", ".300", ".300", ".500", ".500"],
        "easy": [".600", ".010", ".010", "1.000", "1.000", ".300", ".300"],
    }
    assert lines(folder, "temperature")[1] == ["words-0.1", "4.000", "2.000", "8.000", "4.000", "16.000", "14.000"]


def test_runs_on_other_items_or_of_another_base_are_not_subtracted(folder: Path) -> None:
    cells = read_cells(folder)
    assert cells.by_seed(TALR, STANDARD).keys() == {0, 1}
    for column in ("base_model", "general_items"):
        runs = cells.runs.copy()
        runs.loc[(runs["remedy"] == "talr") & (runs["seed"] == 1), column] = "other"
        assert Cells(runs, cells.tokens, cells.answers).by_seed(TALR, STANDARD).keys() == {0}


@pytest.mark.slow
def test_figures_and_order(folder: Path) -> None:
    assert variants(read_cells(folder)) == ["clean", "words-0.1", "words-0.1-2-epochs"]
    draw_talr(folder)
    assert {path.name for path in (folder / "figures").iterdir()} == {"phase.png", "phase.pdf", "temperature.png", "temperature.pdf"}
