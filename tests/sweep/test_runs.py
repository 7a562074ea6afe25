"""Run folders: what is made, kept, and made again."""

import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_talr.cli.command_line import main
from tests.sweep.stub import calls, fails, record, words


@pytest.mark.slow
def test_interpolations_of_a_trial_that_is_made_again_are_too(tmp_path: Path, stub: Path) -> None:
    main(["sweep", *words(tmp_path, alphas=[0.5], rates=[1e-3], seeds=[0])])
    for name in ("base", "standard-1e-3-s0", "talr-1e-3-s0"):
        shutil.rmtree(tmp_path / "out" / name)
    main(["sweep", *words(tmp_path, alphas=[0.5], rates=[1e-3], seeds=[0]), "--trainer.max_epochs", "9"])
    assert set(calls(stub).values()) == {2} and calls(stub)["test standard-1e-3-s0-wise-0.5"] == 2


@pytest.mark.slow
def test_the_page_hparams_of_tensorboard(tmp_path: Path, stub: Path) -> None:
    main(["sweep", *words(tmp_path, rates=[1e-3], seeds=[0], alphas=[0.5])])
    main(["sweep", *words(tmp_path, rates=[1e-3], seeds=[0], alphas=[0.5])])
    folder = tmp_path / "out" / "standard-1e-3-s0-wise-0.5"
    assert len(list(folder.glob("events*"))) == 1
    events = EventAccumulator(str(folder)).Reload()
    data = HParamsPluginData.FromString(events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content)
    found = {key: value.string_value or value.number_value for key, value in data.session_start_info.hparams.items()}
    assert found == {"remedy": "wise-ft", "rate": 1e-3, "seed": 0.0, "alpha": 0.5}
    assert events.Scalars("general/drop")[0].value == pytest.approx(0.01)
    assert events.Scalars("test/score")[0].value == 0.5
    trial = EventAccumulator(str(tmp_path / "out" / "talr-1e-3-s0")).Reload()
    assert [event.step for event in trial.Scalars("test/score")] == [7]


@pytest.mark.slow
def test_folders_of_other_runs_are_not_touched(tmp_path: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "out" / "talr-1e-3-s0"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    assert f"{mine} holds notes.txt, which no sweep has written and this one would delete; name another" in fails(capsys, *words(tmp_path))
    (mine / "notes.txt").unlink()
    main(["sweep", *words(tmp_path, seeds=[0])])
    assert "base was made by other words (its trial.json has them)" in fails(capsys, *words(tmp_path, seeds=[0]), "--trainer.max_epochs", "9")


@pytest.mark.slow
def test_killed_while_the_export_is_written_the_numbers_of_training_stay(tmp_path: Path, stub: Path) -> None:
    """Resumed from a checkpoint of the very end, ``fit`` measures nothing again."""
    given = words(tmp_path, rates=[1e-3], seeds=[0], remedies={"talr": ["-c", "configs/loss/talr.yaml"]})
    main(["sweep", *given])
    run = tmp_path / "out" / "talr-1e-3-s0"
    numbers = record(tmp_path, "talr-1e-3-s0", "metrics.json")["fit"]
    shutil.rmtree(run / "export")
    (run / "metrics.json").write_text(json.dumps({"fit": numbers}))
    (stub / "nothing-new").touch()
    main(["sweep", *given])
    assert calls(stub)["fit talr-1e-3-s0 resumed"] == 1 and calls(stub)["fit talr-1e-3-s0"] == 1 and calls(stub)["test talr-1e-3-s0"] == 2
    assert record(tmp_path, "talr-1e-3-s0", "metrics.json")["fit"] == numbers
