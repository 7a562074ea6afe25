"""Scores of responses that are known to be right, wrong, cut or missing."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.callbacks import DomainScore
from lit_talr.data.batch_plan import Batching
from lit_talr.domains import ESCI, MedCalc
from lit_talr.losses import Standard
from lit_talr.modeling.generation import Generation, Response
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Constant
from tests.helpers.esci_rows import write_esci
from tests.helpers.fits import QWEN3
from tests.helpers.medcalc_rows import medcalc_row, write_medcalc
from tests.helpers.tiny import save_tokenizer


class Scripted(DomainSFT):
    """Responds to the rows 1000 to 1004 by a script: the second and the fourth are right."""

    def respond(self, prompts: list[list[int]], settings: Generation | None = None) -> list[Response]:
        texts = [self.data.encoder.tokenizer.decode(prompt) for prompt in prompts]
        return [script(int(text.split("Patient ")[2].split()[0])) for text in texts]


def script(number: int) -> Response:
    truth = medcalc_row(number)["Ground Truth Answer"]
    match number:
        case 1001 | 1003:
            return Response(json.dumps({"answer": truth}), 9, cut=False)
        case 1002:
            return Response(json.dumps({"answer": "-1"}), 9, cut=False)
        case 1004:
            return Response("", 0, cut=False, unanswered=True)
    return Response(f'{{"answer": "{truth}', 9, cut=True)


def test_every_response_is_scored_once_and_written(tmp_path: Path) -> None:
    _, train, _, test = write_medcalc(tmp_path)
    save_tokenizer(tmp_path / "tokenizer", "qwen2")
    data = MedCalc(str(tmp_path / "tokenizer"), train=train, test=test, batching=Batching(eval_batch_size=2))
    module = Scripted(Standard(), partial(torch.optim.SGD, lr=0.1), Constant(), architecture=QWEN3)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    (scores,) = Trainer(accelerator="cpu", devices=1, callbacks=[DomainScore()], **quiet).test(module, datamodule=data, verbose=False)
    assert scores["test/score"] == scores["test/accuracy/physical"] == pytest.approx(2 / 5)
    assert scores["test/num_examples"] == 5
    assert scores["test/cut"] == scores["test/unanswered"] == pytest.approx(1 / 5)
    rows = [json.loads(line) for line in (tmp_path / "answers" / "test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["correct"] for row in rows] == [False, True, False, True, False]
    assert [row["truth"] for row in rows] == [medcalc_row(1000 + n)["Ground Truth Answer"] for n in range(5)]
    assert rows[3]["row"].endswith("test.parquet: row 4") and rows[3]["text"] == script(1003).text
    assert not (tmp_path / "answers" / "test.png").exists()


class Exact(DomainSFT):
    """Calls every product an exact match."""

    def respond(self, prompts: list[list[int]], settings: Generation | None = None) -> list[Response]:
        return [Response('{"answer": "E"}', 9, cut=False) for _ in prompts]


def test_a_figure_of_the_metric_is_written(tmp_path: Path) -> None:
    _, train, _, test = write_esci(tmp_path)
    save_tokenizer(tmp_path / "tokenizer", "qwen2")
    module = Exact(Standard(), partial(torch.optim.SGD, lr=0.1), Constant(), architecture=QWEN3)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    quiet: dict[str, Any] = {"logger": logger, "enable_progress_bar": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    data = ESCI(str(tmp_path / "tokenizer"), train=train, test=test)
    (scores,) = Trainer(accelerator="cpu", devices=1, callbacks=[DomainScore()], **quiet).test(module, datamodule=data, verbose=False)
    assert scores["test/score"] == pytest.approx(0.1) and scores["test/recall/E"] == 1  # F1 of E: 2 * 4 / (4 + 16)
    assert (tmp_path / "answers" / "test.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["test/answers"]
