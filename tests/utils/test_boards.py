"""Histograms, figures and tables as the loggers' own packages read them back."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.cli.command_line import main
from lit_talr.utils.boards import Histogram, boards, histogram_figure
from tests.helpers.fits import write_data
from tests.helpers.scores import read_values

VIEWS = [("probability", "probe"), ("probability", "train"), ("curriculum", "loss_by_probability"), ("curriculum", "cohorts")]


def test_a_logger_of_numbers_alone_has_no_board(tmp_path: Path) -> None:
    assert boards(Trainer(accelerator="cpu", logger=CSVLogger(tmp_path), enable_progress_bar=False)) == []


def test_a_histogram_is_drawn_in_its_bins() -> None:
    (axes,) = histogram_figure(Histogram([0, 0.5, 1], [3, 1], [0.2, 0.6]), "title").axes
    (steps,) = axes.patches
    values, edges, _ = steps.get_data()  # type: ignore[attr-defined]
    assert (list(values), list(edges)) == ([3, 1], [0, 0.5, 1])


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of two epochs that four loggers take down at once, and the last values that W&B has of it."""
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("loggers")
    write_data(folder)
    loggers: list[dict[str, Any]] = [
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder / "run"), "name": "", "version": ""}},
        {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "run"), "name": "", "version": ""}},
        {"class_path": "WandbLogger", "init_args": {"save_dir": str(folder / "run"), "offline": True, "project": "tests"}},
        {"class_path": "MLFlowLogger", "init_args": {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}", "artifact_location": str(folder / "artifacts")}},
    ]
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    words = ["fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml", *files, "--trainer.max_epochs", "2"]
    words += ["--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--trainer.accelerator", "cpu"]
    (folder / "run").mkdir()
    main([*words, "--run", str(folder / "run"), "--trainer.logger", json.dumps(loggers), "--data.batching.batch_size", "8"])
    last = dict(wandb.run.summary)
    wandb.finish()
    return folder, last


@pytest.mark.slow
def test_one_run_in_four_loggers(logged: tuple[Path, dict[str, Any]]) -> None:
    run, last = logged[0] / "run", logged[1]
    scores = read_values(run, "fit")
    table = pd.read_parquet(run / "token_probability.parquet")
    counts = [group["num_tokens"].tolist() for _, group in table.query("set == 'probe' and group == 'bin'").groupby("epoch")]
    hardest = table.query("group == 'hardest'")

    assert pd.read_csv(run / "metrics.csv")["val/nll"].dropna().iloc[-1] == pytest.approx(scores["val/nll"])

    events = EventAccumulator(str(run), size_guidance={"histograms": 0, "images": 0}).Reload()
    assert [event.histogram_value.bucket for event in events.Histograms("probability/probe")] == counts
    assert len(events.Images("curriculum/cohorts")) == 2

    assert (last["val/nll"], last["epoch"]) == (pytest.approx(scores["val/nll"]), 2)
    assert last["probability/probe"]["values"] == counts[-1]
    assert (last["curriculum/cohorts"]["_type"], last["hardest_tokens"]["_type"]) == ("image-file", "table-file")
    (media,) = run.glob("wandb/offline-run-*/files/media")
    shown = [json.loads(file.read_text())["data"] for file in sorted(media.rglob("hardest_tokens*.json"), key=os.path.getmtime)]
    assert [row[3] for epoch in shown for row in epoch] == hardest["token"].tolist()


@pytest.mark.slow
def test_mlflow_has_images_by_epoch_and_one_table(logged: tuple[Path, dict[str, Any]]) -> None:
    from mlflow.tracking import MlflowClient

    client, run = MlflowClient(f"sqlite:///{logged[0] / 'mlflow.db'}"), logged[0] / "run"
    (found,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])  # type: ignore[union-attr]
    scores, table, run_id = read_values(run, "fit"), pd.read_parquet(run / "token_probability.parquet"), found.info.run_id
    history = client.get_metric_history(run_id, "val/nll")
    assert len(history) == 2 and history[-1].value == pytest.approx(scores["val/nll"])
    assert any(name.startswith("cohort/") for name in found.data.metrics) and found.data.params["trainer.max_epochs"] == "2"
    named = [re.match(r"(\w+).(\w+).step.(\d)\D.*png$", Path(file.path).name) for file in client.list_artifacts(run_id, "images")]
    views = [("probability", "probe", 0), *((*view, epoch) for epoch in (1, 2) for view in VIEWS)]
    assert sorted((name[1], name[2], int(name[3])) for name in named if name) == sorted(views)
    tokens = client.load_table(found.info.experiment_id, "hardest_tokens.json")
    hardest = table.query("group == 'hardest'")
    assert tokens["epoch"].tolist() == hardest["epoch"].tolist() and tokens["token"].tolist() == hardest["token"].tolist()
