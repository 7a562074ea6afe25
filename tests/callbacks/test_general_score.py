"""General suites whose responses come from a script: which are right before training, and which after."""

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lit_talr.callbacks import GeneralBudget, GeneralScore
from lit_talr.callbacks.base import Scores
from lit_talr.callbacks.general_score import SuiteClass
from lit_talr.data.batch_plan import Batching
from lit_talr.domains import Records
from lit_talr.losses import Standard
from lit_talr.modeling.generation import Generation, Response
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Constant
from lit_talr.utils.files import read_json_lines
from tests.helpers.fits import records, write_data

asked: Counter[str] = Counter()
"""How often each question was put to a model."""


class Scripted(DomainSFT):
    """Knows all items but every eighth before training; after it, of the suite ``sums`` only the odd ones."""

    def respond(self, prompts: list[list[int]], settings: Generation | None = None) -> list[Response]:
        if settings is None:  # the domain's own rows
            return [Response("?", 1, cut=False) for _ in prompts]
        assert settings.max_new_tokens == 5
        texts = [self.data.encoder.tokenizer.decode(prompt).split("user\n")[1].split("<")[0] for prompt in prompts]
        asked.update(texts)
        return [Response(text.split()[1] if self.knows(text) else "?", 1, cut=False) for text in texts]

    def knows(self, text: str) -> bool:
        suite, number = text.split()[0], int(text.split()[1])
        return number % 2 == 1 if suite == "sums" and self.trainer.global_step + (self.loaded_step or 0) else number % 8 != 0


class OwnSource(Records):
    source_name = "another source"


def suite(folder: Path, name: str, number: int = 16) -> SuiteClass:
    """Items 0, 1, ... for validation and as many from 100 on for test."""
    for split, first in (("train", 0), ("val", 0), ("test", 104)):
        rows = [{"prompt": f"{name} {first + n}", "response": str(first + n)} for n in range(number)]
        (folder / f"{name}-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(folder / f"{name}-{split}.jsonl") for split in ("train", "val", "test")}
    return lambda tokenizer, revision: OwnSource(tokenizer, revision, batching=Batching(eval_batch_size=3), **files)


def watched(folder: Path, run: str, *callbacks: Callback, epochs: int = 2) -> tuple[Trainer, LightningModule, Records]:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "num_sanity_val_steps": 0, "default_root_dir": folder / run}
    module = Scripted(Standard(), partial(torch.optim.SGD, lr=0.1), Constant(), pretrained=str(folder / "model"))
    return Trainer(callbacks=list(callbacks), **quiet, **options), module, records(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asked.clear()
    write_data(tmp_path)
    (tmp_path / "tokenizer").rename(tmp_path / "old")
    for file in (tmp_path / "old").iterdir():  # the model's own tokenizer is the run's
        file.rename(tmp_path / "model" / file.name)
    (tmp_path / "tokenizer").symlink_to(tmp_path / "model")
    return tmp_path


def both(folder: Path) -> GeneralScore:
    return GeneralScore({"sums": suite(folder, "sums"), "facts": suite(folder, "facts")}, generation=Generation(max_new_tokens=5))


def test_the_drop_and_its_error_are_those_of_the_items(folder: Path) -> None:
    trainer, module, data = watched(folder, "run", both(folder))
    trainer.fit(module, datamodule=data)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("general/")}
    # Before: 14 of 16 in both. After: 8 of 16 sums (the odd ones), 14 of 16 facts.
    assert found["general/sums"] == 0.5 and found["general/facts"] == 0.875 and found["general/mean"] == pytest.approx(0.6875)
    assert found["general/drop"] == pytest.approx(0.1875)
    lost = [float(n % 8 != 0) - float(n % 2 == 1) for n in range(16)]
    assert found["general/drop_se"] == pytest.approx(math.sqrt(np.var(lost, ddof=1) / 16 / 4))
    answers = folder / "run" / "answers"
    assert {path.name for path in answers.iterdir()} == {"general-epoch-0.jsonl", "general-epoch-1.jsonl", "general-epoch-2.jsonl", "general-base-test.jsonl"}
    rows = read_json_lines(answers / "general-epoch-2.jsonl")
    assert [(row["suite"], row["id"]) for row in rows] == [(name, n) for name in ("sums", "facts") for n in range(16)]
    assert [row["correct"] for row in rows[:16]] == [n % 2 == 1 for n in range(16)] and rows[3]["truth"] == rows[3]["text"] == "3"


def test_test_items_differ_and_are_compared_with_the_base_model(folder: Path) -> None:
    trainer, module, data = watched(folder, "run", both(folder))
    trainer.fit(module, datamodule=data)
    trainer, module, data = watched(folder, "run", both(folder))
    (scores,) = trainer.test(module, datamodule=data, verbose=False)  # of the untrained model: nothing is lost
    assert scores["general/mean"] == 0.875 and scores["general/drop"] == scores["general/drop_se"] == 0
    assert len(read_json_lines(folder / "run" / "answers" / "general-test.jsonl")) == 32
    assert asked["sums 104"] == 2 and asked["sums 0"] == 3


def test_runs_side_by_side_share_the_base_models_responses(folder: Path) -> None:
    for run in ("first", "second"):
        trainer, module, data = watched(folder, run, both(folder), epochs=1)
        trainer.fit(module, datamodule=data)
    assert asked["sums 3"] == 1 + 2 and asked["sums 105"] == 1  # validation items once before, and after either epoch; test items once
    parts = [(folder / run / "answers" / "general-epoch-0.jsonl").read_text() for run in ("first", "second")]
    assert parts[0] == parts[1]
    asked.clear()
    other = GeneralScore({"sums": suite(folder, "sums", 17)}, generation=Generation(max_new_tokens=5))
    trainer, module, data = watched(folder, "third", other, epochs=1)
    trainer.fit(module, datamodule=data)
    assert asked["sums 3"] == 2 and asked["sums 105"] == 1  # other items: asked anew


def test_a_suite_from_the_domains_own_source_does_not_count(folder: Path) -> None:
    own: SuiteClass = lambda tokenizer, revision: records(folder)  # noqa: E731
    callback = GeneralScore({"own": own, "sums": suite(folder, "sums")}, generation=Generation(max_new_tokens=5))
    trainer, module, data = watched(folder, "run", callback, epochs=1)
    module.knows = lambda text: True  # type: ignore[assignment]
    trainer.fit(module, datamodule=data)
    found = trainer.callback_metrics
    assert found["general/mean"] == found["general/sums"] == 1 and found["general/own"] == 0 and found["general/drop"] == 0


def test_wordings_of_a_suite_are_scored_apart_and_count_once(folder: Path) -> None:
    """The wordings ask for other words ("sums" and "facts"), whose items are the same numbers."""
    suites = {"maths/sums": suite(folder, "sums"), "maths/facts": suite(folder, "facts"), "own": suite(folder, "own")}
    trainer, module, data = watched(folder, "run", GeneralScore(suites, generation=Generation(max_new_tokens=5)), epochs=1)
    trainer.fit(module, datamodule=data)
    found = {name.removeprefix("general/"): float(value) for name, value in trainer.callback_metrics.items() if name.startswith("general/")}
    assert [found[name] for name in ("maths/sums", "maths/facts", "maths", "maths/spread", "own")] == [0.5, 0.875, 0.6875, 0.375, 0.875]
    assert found["maths/sd"] == pytest.approx(np.std([0.5, 0.875], ddof=1)) and found["mean"] == pytest.approx((0.6875 + 0.875) / 2)
    rows = read_json_lines(folder / "run" / "answers" / "general-epoch-1.jsonl")
    assert [row["suite"] for row in rows[::16]] == ["maths/sums", "maths/facts", "own"]
    scores = Scores({"maths/sums": 0.5, "maths/facts": 0.875, "own": 0.875}, rows, {})
    sizes = {name: items.number for name in ("maths/sums", "maths", "maths/spread", "own", "mean") if (items := scores.items(f"general/{name}"))}
    assert sizes == {"maths/sums": 16, "maths": 32, "maths/spread": 32, "own": 16, "mean": 48}
    other = GeneralScore({"a/x": suite(folder, "sums"), "a/y": suite(folder, "facts", 15)}, generation=Generation(max_new_tokens=5))
    trainer, module, data = watched(folder, "other", other, epochs=1)
    with pytest.raises(ValueError, match="'a/y' has other items than 'a/x'; give wordings of one suite the same rows"):
        trainer.fit(module, datamodule=data)


@pytest.mark.slow
def test_a_resumed_run_compares_with_the_same_base_model(folder: Path) -> None:
    trainer, module, data = watched(folder, "run", both(folder), epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "one.ckpt")
    trainer, module, data = watched(folder, "run", both(folder))
    trainer.fit(module, datamodule=data, ckpt_path=folder / "one.ckpt", weights_only=True)
    assert trainer.callback_metrics["general/drop"] == pytest.approx(0.1875)
    trainer, module, data = watched(folder, "elsewhere", both(folder))
    with pytest.raises(ValueError, match="`GeneralScore` must watch a run from its start"):
        trainer.fit(module, datamodule=data, ckpt_path=folder / "one.ckpt", weights_only=True)


def test_responses_to_other_items_are_refused(folder: Path) -> None:
    trainer, module, data = watched(folder, "run", both(folder), epochs=1)
    trainer.fit(module, datamodule=data)
    trainer, module, data = watched(folder, "run", GeneralScore({"sums": suite(folder, "sums", 17)}, generation=Generation(max_new_tokens=5)))
    with pytest.raises(ValueError, match=r"not to the items that `sums` has now \(item 16 differs\)"):
        trainer.test(module, datamodule=data, verbose=False)
    file = folder / "run" / "answers" / "general-base-test.jsonl"
    file.write_text(file.read_text().replace('"truth": "107"', '"truth": "108"'))
    trainer, module, data = watched(folder, "run", both(folder))
    with pytest.raises(ValueError, match=r"`sums` has now \(item 3 differs\)"):
        trainer.test(module, datamodule=data, verbose=False)


def test_where_no_suite_counts_there_is_no_mean(folder: Path) -> None:
    own: SuiteClass = lambda tokenizer, revision: records(folder)  # noqa: E731
    trainer, module, data = watched(folder, "run", GeneralScore({"own": own}, generation=Generation(max_new_tokens=5)), epochs=1)
    module.knows = lambda text: True  # type: ignore[assignment]
    trainer.fit(module, datamodule=data)
    assert all(math.isnan(trainer.callback_metrics[f"general/{name}"]) for name in ("mean", "drop", "drop_se"))


def test_a_run_that_the_budget_has_ended_stays_so(folder: Path) -> None:
    trainer, module, data = watched(folder, "run", both(folder), GeneralBudget(0.02), epochs=3)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "stopped.ckpt")
    steps = trainer.global_step
    trainer, module, data = watched(folder, "run", both(folder), GeneralBudget(0.02), epochs=3)
    trainer.fit(module, datamodule=data, ckpt_path=folder / "stopped.ckpt", weights_only=True)
    assert trainer.current_epoch == 1 and trainer.global_step == steps


def test_the_budget_waits_for_epochs_that_are_scored(folder: Path) -> None:
    seldom = GeneralScore({"sums": suite(folder, "sums")}, every_n_epochs=2, generation=Generation(max_new_tokens=5))
    trainer, module, data = watched(folder, "run", seldom, GeneralBudget(0.02), epochs=4)
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch == 2


@pytest.mark.slow
def test_the_budget_ends_a_run_that_passed_it_by_more_than_its_error(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="lit_talr")
    epochs = {}
    for name, budget in (
        ("far", GeneralBudget(0.02)),
        ("within its error", GeneralBudget(0.1)),
        ("exact", GeneralBudget(0.18, errors=0)),
        ("wide", GeneralBudget(0.2, errors=0)),
    ):
        trainer, module, data = watched(folder, name, both(folder), budget, epochs=3)
        trainer.fit(module, datamodule=data)
        epochs[name] = trainer.current_epoch
    assert epochs == {"far": 1, "within its error": 3, "exact": 1, "wide": 3}
    assert "general/drop is 0.188 (standard error 0.062), over the budget of 0.02; the run ends after step 3 (epoch 1)." in caplog.text


def test_refusals(folder: Path) -> None:
    with pytest.raises(ValueError, match="`suites` must name at least one suite"):
        GeneralScore({})
    with pytest.raises(ValueError, match="`every_n_epochs` must be at least 1, got 0; null asks nothing during fit"):
        GeneralScore({"sums": suite(folder, "sums")}, every_n_epochs=0)
    with pytest.raises(ValueError, match=r"`general_drop` must lie in \[0, 1\], got 2"):
        GeneralBudget(2)
    with pytest.raises(ValueError, match=r"`errors` must lie in \[0, inf\), got -1"):
        GeneralBudget(0.1, errors=-1)
    trainer, module, data = watched(folder, "run", GeneralBudget(0.1), epochs=1)
    with pytest.raises(ValueError, match="put a `GeneralScore` or an `LMEval` with an interval before it"):
        trainer.fit(module, datamodule=data)
