"""The run: the shipped configuration of a short run, and a diagnosis of what it leaves."""

import json
from pathlib import Path

import pandas as pd
import pytest

from lit_talr.cli.command_line import main

CONFIGS = [word for name in ("experiment/lab_clinic", "loss/standard", "eval/diagnose") for word in ("-c", f"configs/{name}.yaml")]
SIZES = ["--data.train_size", "96", "--data.val_size", "8", "--data.held_out", "0.4", "--trainer.max_epochs", "1", "--trainer.logger", "false"]


@pytest.mark.slow
def test_a_short_run_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "short"
    main(["fit", *CONFIGS, *SIZES, "--model.optimizer.lr", "2e-3", "--run", str(run)])
    capsys.readouterr()
    main(["diagnose", str(run)])
    printed, values = capsys.readouterr().out, json.loads((run / "diagnosis.json").read_text())
    rows = pd.read_parquet(run / "token_probability.parquet").query("set == 'held_out' and epoch == 1").set_index("group")
    assert values["unseen"]["num_tokens"] == rows["num_tokens"]["all"].item() > 1000
    assert values["unseen"]["num_hard"] == rows["num_tokens"]["base_hard"] and values["unseen"]["num_still"] == rows["num_tokens"]["still_hard"]
    assert values["epochs"] == 1 and values["rate"] == 2e-3 and values["drift"] > 0 and values["visible"] is None
    assert values["unseen"]["share"] < 0.69 and values["advice"]["helps"] is False  # the rows are clean
    assert "recommendation: Standard at " in printed and "one model family, lab only" in printed
