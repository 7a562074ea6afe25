from pathlib import Path

import pandas as pd
import pytest

from lit_talr.cli.command_line import main
from lit_talr.cli.demo import comparison_table, comparisons, free_folder, verdict


def test_a_name_that_is_free_is_taken(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"


@pytest.mark.slow
def test_a_command_that_fails_stops_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--folder", str(tmp_path / "demo"), "--workers", "0"])
    error = capfd.readouterr().err
    assert "`--workers` must be at least 1, got 0." in error and "The demo stops here: `lit-talr sweep` failed" in error


@pytest.mark.slow
def test_the_demo_at_a_small_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    main(["demo", "--folder", str(folder), "--rows", "32", "--epochs", "1"])
    printed = capfd.readouterr().out
    results = pd.read_parquet(folder / "report" / "results.parquet")
    worlds = {world: sorted(rows["remedy"]) for world, rows in results.groupby("variant")}
    assert worlds == {"clean": ["base", "l2", "small-rate", "standard", "talr", "wise-ft"], "noisy": ["base", "standard", "talr", "wise-ft"]}
    for point in results.loc[results["remedy"] != "base", "point"]:
        assert any(line.strip("| ").startswith(point) and "→" in line for line in printed.splitlines())
    assert "What it cannot show" in printed and f"--logdir {folder}" in printed and str(folder / "report" / "report.html") in printed
    for world, count in (("clean", 4), ("noisy", 2)):
        assert printed.count(f"\n- {world} ") == count and f"\n- {world} talr 2e-3: domain " in printed
    assert (folder / "report" / "figures" / "tradeoff.png").is_file() and (folder / "noisy-talr-2e-3-s0" / "export" / "model.safetensors").is_file()
    base, other = (pd.read_json(folder / f"{world}-base" / "answers" / "test.jsonl", lines=True) for world in ("clean", "noisy"))
    assert base.equals(other)  # the same test rows


def test_the_table_of_a_demo() -> None:
    rows = [
        {"point": "clean base", "variant": "clean", "remedy": "base", "domain": 0.01, "general": 0.9, "drop": 0.0, "drop_lower": 0.0, "drop_upper": 0.0},
        {"point": "noisy base", "variant": "noisy", "remedy": "base", "domain": 0.02, "general": 0.9, "drop": 0.0, "drop_lower": 0.0, "drop_upper": 0.0},
        {"point": "noisy talr", "variant": "noisy", "remedy": "talr", "domain": 0.4, "general": 0.85, "drop": 0.05, "drop_lower": 0.031, "drop_upper": 0.07},
    ]
    table = comparison_table(pd.DataFrame(rows))
    assert [next(iter(column.cells)) for column in table.columns] == ["noisy talr", "0.020 → 0.400", "0.900 → 0.850", "0.050 [0.031, 0.070]"]


def test_a_comparison_is_with_standard_in_its_world() -> None:
    results = pd.DataFrame({"point": ["noisy base", "noisy standard 2e-3", "noisy talr 2e-3"], "remedy": ["base", "standard", "talr"]})
    talr = {
        "point": "noisy talr 2e-3",
        "domain": 0.1,
        "domain_lower": 0.05,
        "domain_upper": 0.15,
        "general": 0.01,
        "general_lower": -0.01,
        "general_upper": 0.03,
    }
    pairs = pd.DataFrame([{**talr, "reference": "noisy base", "domain": 0.4}, {**talr, "reference": "noisy standard 2e-3"}])
    expected = "noisy talr 2e-3: domain +0.100 [+0.050, +0.150], general +0.010 [-0.010, +0.030]: better on domain, not told apart on general."
    assert [*comparisons(results, pairs)] == [expected]


@pytest.mark.parametrize(
    ("domain", "general", "expected"),
    [
        ((0.01, 0.2), (0.02, 0.1), "better on domain and general"),
        ((-0.2, -0.01), (-0.1, -0.02), "worse on domain and general"),
        ((-0.2, -0.01), (0.02, 0.1), "better on general, worse on domain"),
        ((0.0, 0.2), (-0.1, 0.0), "not told apart on domain and general"),
        ((0.01, 0.2), (-0.1, 0.1), "better on domain, not told apart on general"),
    ],
)
def test_a_verdict_says_no_more_than_the_intervals(domain: tuple[float, float], general: tuple[float, float], expected: str) -> None:
    assert verdict({"domain": domain, "general": general}) == expected
