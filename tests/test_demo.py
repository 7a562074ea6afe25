import json
from pathlib import Path

import pytest

from lit_talr.cli import main
from lit_talr.data.clinic import CALCULATORS
from lit_talr.demo import KNOWN, NEW, comparison, free
from lit_talr.token_groups import write_table


def test_a_name_that_is_free_is_taken(tmp_path: Path) -> None:
    assert free(tmp_path / "demo") == tmp_path / "demo"
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir()
    assert free(tmp_path / "demo") == tmp_path / "demo-3"


def test_the_two_halves_are_all_calculators() -> None:
    assert sorted([*KNOWN, *NEW]) == sorted(calculator.name for calculator in CALCULATORS)


def test_a_command_that_fails_stops_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--folder", str(tmp_path / "demo"), "--rows", "0"])
    error = capfd.readouterr().err
    assert "`train_size` must be at least 1, got 0." in error and "The demo stops here: `lit-talr fit` failed" in error


@pytest.mark.slow
def test_the_demo_at_a_small_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    main(["demo", "--folder", str(folder), "--rows", "64", "--base_epochs", "1", "--cot_epochs", "2", "--label_epochs", "1"])
    printed = capfd.readouterr().out
    for name in ("standard-cot", "talr-cot", "standard-label", "talr-label"):
        assert "test/score" in json.loads((folder / name / "metrics.json").read_text())["test"]
        assert any(line.strip("| ").startswith(name) and "→" in line for line in printed.splitlines())
    assert "What it cannot show" in printed and f"--logdir {folder}" in printed
    assert (folder / "talr-cot" / "export" / "model.safetensors").is_file()


def test_the_table_of_a_demo(tmp_path: Path) -> None:
    for name in ("before-cot", "talr-cot"):
        (tmp_path / name).mkdir()
    (tmp_path / "before-cot" / "metrics.json").write_text(json.dumps({"test": {"test/score": 0.1}}))
    (tmp_path / "talr-cot" / "metrics.json").write_text(json.dumps({"fit": {"val/nll": 0.5}, "test": {"test/score": 0.4}}))
    rows = [
        {"epoch": epoch, "set": "probe", "group": group, "upper": upper, "num_tokens": number, "probability": epoch / 2 + 0.1, "share_above": epoch * 0.9}
        for epoch in (0, 1)
        for group, upper, number in (("all", 1.0, 9), ("cohort", 0.01, 3), ("cohort", 0.2, 1), ("cohort", 0.5, 5))
    ]
    rows.append({"epoch": 1, "set": "train", "group": "all", "share_at_floor": 0.25})
    write_table(tmp_path / "talr-cot" / "token_probability.parquet", rows)
    table = comparison(tmp_path, {"talr-cot": 61.4})
    assert [next(iter(column.cells)) for column in table.columns] == [
        *("talr-cot", "0.100 → 0.400", "0.500", "0.000 → 0.900", "0.100 → 0.600", "0.250", "61"),
    ]
