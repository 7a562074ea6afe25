"""The lines of a log, and the bar of a terminal."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_talr.callbacks import TokenProgressBar, WholeCheckpoint
from lit_talr.losses import TALR, LossStrategy, Standard
from tests.helpers.fits import fit

LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d epoch (?P<epoch>\d+)/(?P<epochs>\d+), step (?P<step>\d+)/(?P<steps>\d+): loss (?P<loss>[\d.e-]+), "
    r"(temperature (?P<temperature>[\d.e-]+), )?rate (?P<rate>[\d.e-]+), (?P<speed>[\d,]+) tokens/s, (?P<left>\d+:\d\d:\d\d) left(; (?P<scores>val/.*))?$"
)


class Record(Callback):
    """Keeps the loss of each step, and val/nll of each validation."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.nll: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.loss.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.nll.append(float(trainer.callback_metrics["val/nll"]))


def run(folder: Path, out: Path, *callbacks: Callback, loss: LossStrategy | None = None, steps: int = 5, ckpt_path: str | None = None, **options: Any) -> None:
    """A fit of three steps an epoch."""
    trainer = {"callbacks": list(callbacks), "enable_progress_bar": True, "limit_val_batches": 1.0, "default_root_dir": str(out), **options}
    fit(folder, loss or Standard(), steps=steps, trainer=trainer, ckpt_path=ckpt_path)


def lines(text: str) -> list[dict[str, str]]:
    """The fields of each line; there is nothing else."""
    found = [LINE.match(line) for line in text.splitlines()]
    assert all(found), text
    return [match.groupdict() for match in found if match]


def test_a_file_gets_a_line_for_each_validation_with_its_scores(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record()
    run(folder, tmp_path, TokenProgressBar(), record)
    first, last = lines(capsys.readouterr().out)
    assert [(line["epoch"], line["epochs"], line["step"], line["steps"]) for line in (first, last)] == [("1", "2", "3", "5"), ("2", "2", "5", "5")]
    assert [float(line["loss"]) for line in (first, last)] == pytest.approx([sum(record.loss[:3]) / 3, sum(record.loss[3:]) / 2], rel=1e-3)
    assert [re.findall(r"val/nll ([\d.]+), val/perplexity [\d.]+, val/token_accuracy [\d.]+", line["scores"]) for line in (first, last)] == [
        [f"{nll:.4g}"] for nll in record.nll
    ]
    assert (first["rate"], last["left"]) == ("0.3", "0:00:00")


def test_an_epoch_without_validation_has_a_line_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, tmp_path, TokenProgressBar(), loss=TALR(scope="step"), check_val_every_n_epoch=2, steps=9)
    found = lines(capsys.readouterr().out)
    assert [line["step"] for line in found] == ["3", "6", "9"] and all(line["temperature"] for line in found)
    assert [line["scores"] is not None for line in found] == [False, True, False]


def test_a_long_epoch_has_a_line_every_few_minutes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, tmp_path, TokenProgressBar(every_n_minutes=1e-9), steps=3, limit_val_batches=0)
    assert [line["step"] for line in lines(capsys.readouterr().out)] == ["1", "2", "3"]
    run(folder, tmp_path, TokenProgressBar(every_n_minutes=1e-9), steps=1)
    text = capsys.readouterr().out
    assert "validation: batch 1 of 4" in text.splitlines()[1]


def test_a_resumed_run_counts_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    run(folder, tmp_path, TokenProgressBar(), saving, steps=4, enable_checkpointing=True)
    capsys.readouterr()
    run(folder, tmp_path, TokenProgressBar(), steps=7, ckpt_path=str(tmp_path / "step=4.ckpt"))
    assert [(line["epoch"], line["epochs"], line["step"]) for line in lines(capsys.readouterr().out)] == [("2", "3", "6"), ("3", "3", "7")]


class Terminal(io.StringIO):
    """Standard output as a terminal has it."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_scores_above_the_bar(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    run(folder, tmp_path, TokenProgressBar(every_n_minutes=1e-9), check_val_every_n_epoch=2, steps=6)
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", terminal.getvalue())
    assert "Epoch 1/2" in shown and "Epoch 2/2" in shown and "Epoch 0" not in shown
    assert re.findall(r"epoch (\d)/2, step (\d)/6: .*val/nll", shown) == [("2", "6")] and shown.count("left") == 1


def test_colours_forced_into_a_file_bring_no_bar(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(folder, tmp_path, TokenProgressBar(), steps=3)
    text = capsys.readouterr().out
    assert "Epoch" not in text and "step 3/3" in text


def test_loggers_and_names_of_checkpoints_count_epochs_from_1(folder: Path, tmp_path: Path) -> None:
    best = WholeCheckpoint(filename="best-{epoch}-{step}", monitor="val/nll", save_top_k=-1)
    run(folder, tmp_path, best, logger=CSVLogger(tmp_path, "", ""), enable_checkpointing=True, enable_progress_bar=False)
    logged = pd.read_csv(tmp_path / "metrics.csv").dropna(subset="epoch")
    assert logged["epoch"].tolist() == [1 + step // 3 for step in logged["step"]] and logged["val/nll"].notna().sum() == 2
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best-epoch=1-step=3.ckpt", "best-epoch=2-step=5.ckpt"}


@pytest.mark.slow
def test_a_pipe_has_a_line_while_the_run_goes_on(folder: Path, tmp_path: Path) -> None:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    words = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml", *files, "--trainer.max_epochs", "1000000"]
    words += ["--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--run", str(tmp_path / "run")]
    command = [sys.executable, "-m", "lit_talr", "fit", *words, "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert any("epoch 2/1000000" in line and "val/nll" in line for line in process.stdout) and process.poll() is None
        process.kill()


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_out_of_range_are_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match=r"`every_n_minutes` must lie in \(0, inf\), got"):
        TokenProgressBar(every_n_minutes=minutes)
