"""A sweep leaves out what an earlier report has."""

from pathlib import Path

import pandas as pd
import pytest

from lit_talr.cli.command_line import main
from lit_talr.sweep.identity import code_key
from tests.sweep.stub import calls, fails, record, words

NAMES = ("base", "standard-1e-3-s0", "talr-1e-3-s0")


def store(tmp_path: Path, *names: str, code: str | None = None) -> list[str]:
    """Words that name a report of these points, which a sweep has made."""
    rows = [record(tmp_path, name) for name in names]
    (tmp_path / "store").mkdir(exist_ok=True)
    pd.DataFrame([{"name": name, "key": row["key"], "code": code or row["code"]} for name, row in zip(names, rows, strict=True)]).to_parquet(
        tmp_path / "store" / "results.parquet"
    )
    return ["--stored", str(tmp_path / "store")]


def fresh(tmp_path: Path, words: list[str]) -> list[str]:
    """The words with another folder for the runs."""
    return [str(tmp_path / "fresh") if word == str(tmp_path / "out") else word for word in words]


@pytest.mark.slow
def test_stored_points_are_not_run_again(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path, rates=[1e-3], seeds=[0])
    main(["sweep", *given, "--stored", str(tmp_path / "store")])
    assert "store has no results.parquet yet" in capsys.readouterr().out
    before = calls(stub)
    assert record(tmp_path, "base")["code"] == record(tmp_path, "talr-1e-3-s0")["code"] == code_key()
    main(["sweep", *fresh(tmp_path, given), *store(tmp_path, *NAMES)])
    assert "store has 3 of 3 points" in capsys.readouterr().out and calls(stub) == before and not (tmp_path / "fresh").exists()
    main(["sweep", *fresh(tmp_path, given), *store(tmp_path, "base", "standard-1e-3-s0")])
    assert calls(stub) - before == {"fit talr-1e-3-s0": 1, "test talr-1e-3-s0": 1}


@pytest.mark.slow
def test_points_of_another_configuration_or_code_are_run(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path, rates=[1e-3], seeds=[0])
    main(["sweep", *given])
    main(["sweep", *fresh(tmp_path, given), "--trainer.max_epochs", "9", *store(tmp_path, *NAMES), "--dry-run"])
    assert "store has 0 of 3 points" in capsys.readouterr().out
    of_other_code = [*fresh(tmp_path, given), *store(tmp_path, *NAMES, code="abc"), "--dry-run"]
    main(["sweep", *of_other_code])
    printed = capsys.readouterr().out
    assert (
        "has 0 of 3 points" in printed
        and "3 more were made by other code and are run again" in printed
        and f"--same-code abc (this code is {code_key()})" in printed
    )
    main(["sweep", *of_other_code, "--same-code", "abc"])
    assert "has 3 of 3 points" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stored_trial_whose_interpolation_is_missing_is_run_again(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words(tmp_path, rates=[1e-3], seeds=[0], alphas=[0.5])
    main(["sweep", *given])
    main(["sweep", *fresh(tmp_path, given), *store(tmp_path, *NAMES), "--dry-run"])
    printed = capsys.readouterr().out
    assert "has 2 of 4 points" in printed and "# standard-1e-3-s0\n" in printed and "# standard-1e-3-s0-wise-0.5" in printed and "# talr" not in printed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--stored", "store", "--budget", "general_drop=0.02"], "`--budget` chooses by the validation scores of runs"),
        (["--same-code", "abc"], "`--same-code` is about stored points; give `--stored`"),
        (["--stored", "store"], "was written by an earlier version, without the keys of its runs"),
    ],
)
def test_refusals(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, extra: list[str], message: str) -> None:
    (tmp_path / "store").mkdir()
    pd.DataFrame({"name": ["base"]}).to_parquet(tmp_path / "store" / "results.parquet")
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *words(tmp_path), *extra) and not calls(stub)
