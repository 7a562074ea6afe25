"""The options of a sweep."""

from collections import Counter
from pathlib import Path

import pytest

from lit_talr.cli.command_line import main
from tests.sweep.stub import calls, fails, words


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["-c", "nope.yaml"], "nope.yaml: no such configuration file"),
        (["-c", "configs/lora.yaml"], "; did you mean configs/adapter/lora.yaml?"),
        (["--workers", "0"], "`--workers` must be at least 1, got 0."),
        (["--workers", "many"], "`--workers` must be a whole number, got 'many'."),
        (["--budget", "general_drop=much"], "`--budget` must be general_drop=NUMBER"),
        (["--ckpt_path", "last"], "sweep: `--ckpt_path` is set by the sweep, for each trial"),
        (["--seed_everything", "4"], "sweep: `--seed_everything` is set by the sweep, from `seeds` of the space; write it there."),
        (["--modle.x", "1"], "standard: unrecognized arguments: --modle.x 1"),
        (["--storage", "nosuch://user:secret@host"], "`--storage`: this nosuch storage could not be opened"),
    ],
)
def test_bad_words(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str) -> None:
    error = fails(capsys, *words(tmp_path), *extra)
    assert message in error and "secret" not in error and not calls(stub)


def test_a_sweep_goes_into_no_runs_folder(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").touch()
    assert "out is the folder of one run; name one that is new" in fails(capsys, *words(tmp_path))


def test_a_dry_run_prints_every_command_and_writes_nothing(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(tmp_path.rglob("*"))
    main(["sweep", *words(tmp_path, alphas=[0.3, 0.5]), "--dry-run"])
    printed = capsys.readouterr().out.splitlines()
    verbs = Counter(" ".join(line.split()[:2]) for line in printed if line.startswith("lit-talr "))
    assert verbs == {"lit-talr fit": 8, "lit-talr test": 1 + 8 + 8, "lit-talr merge": 8}
    assert printed[-1] == "8 trial(s), 1 base model(s), 8 merge(s). Nothing was run."
    main(["sweep", *words(tmp_path), "--dry_run", "--budget", "general_drop=0.02"])
    guided = capsys.readouterr().out
    assert guided.count("--trainer.callbacks+=GeneralBudget --trainer.callbacks.general_drop=0.02 --run") == 8 and "lit-talr test" not in guided
    assert set(tmp_path.rglob("*")) == {*before, tmp_path / "space.yaml"}
    assert not calls(stub)
