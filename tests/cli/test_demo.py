from pathlib import Path

import pandas as pd
import pytest

from lit_talr.cli.command_line import main
from lit_talr.cli.demo import comparison_table, free_folder


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
    assert sorted(results["remedy"]) == ["base", "l2", "standard", "standard", "talr", "wise-ft", "wise-ft"]
    for point in results.loc[results["remedy"] != "base", "point"]:
        assert any(line.strip("| ").startswith(point) and "→" in line for line in printed.splitlines())
    assert "What it cannot show" in printed and f"--logdir {folder}" in printed and str(folder / "report" / "report.html") in printed
    assert (folder / "report" / "report.html").is_file() and (folder / "talr-3e-3-s0" / "export" / "model.safetensors").is_file()


def test_the_table_of_a_demo() -> None:
    rows = [
        {"point": "base", "remedy": "base", "domain": 0.01, "general": 0.9, "drop": 0.0, "drop_lower": 0.0, "drop_upper": 0.0},
        {"point": "talr 3e-3", "remedy": "talr", "domain": 0.4, "general": 0.85, "drop": 0.05, "drop_lower": 0.031, "drop_upper": 0.07},
    ]
    table = comparison_table(pd.DataFrame(rows))
    assert [next(iter(column.cells)) for column in table.columns] == ["talr 3e-3", "0.010 → 0.400", "0.900 → 0.850", "0.050 [0.031, 0.070]"]
