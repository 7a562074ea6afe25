"""Shared parts of the callbacks: files of responses, scores compared with the base model, and budgets that end a run."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback, Trainer
from transformers import GenerationConfig

from lit_talr.data.encoded import Batch
from lit_talr.data.example import Example, Split
from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.wordings import suite_of, suite_scores, with_spreads
from lit_talr.modeling.generation import Response
from lit_talr.module import DomainSFT
from lit_talr.utils.cache import ContentCache, Entry, read_or_compute
from lit_talr.utils.collectives import gather_lists
from lit_talr.utils.errors import check_in
from lit_talr.utils.files import write_json_lines
from lit_talr.utils.score import DIGITS, Items, digest

logger = logging.getLogger(__name__)
Rows = list[dict[str, Any]]


def epoch_is_due(trainer: Trainer, every_n_epochs: int | None) -> bool:
    """Whether the epoch that is ending is one of every so many; null is never."""
    return not trainer.sanity_checking and every_n_epochs is not None and (trainer.current_epoch + 1) % every_n_epochs == 0


def response_rows(metric: DomainMetric, ids: Sequence[int], examples: Sequence[Example], responses: Sequence[Response]) -> Rows:
    """A row for each response, with how the metric reads it and whether it is right; the metric does not count them."""
    return [
        {
            "id": index,
            "row": example.meta.get("where"),
            "prompt_hash": digest(example.prompt)[:DIGITS],
            **response._asdict(),
            "truth": example.meta.get("answer"),
            **metric.judge(response.text, example),
        }
        for index, example, response in zip(ids, examples, responses, strict=True)
    ]


def gather_rows(rows: Rows) -> Rows:
    """The rows of all ranks by ``id``, on every rank. Collective."""
    return sorted(gather_lists(rows), key=lambda row: row["id"])


def responses_file(trainer: Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / "answers" / f"{name}.jsonl"


def exported_generation(module: DomainSFT) -> GenerationConfig:
    """The model's generation settings, with which ``generate`` ends a response where training ended it."""
    assert module.backbone is not None
    settings, encoder = deepcopy(module.backbone.model.generation_config), module.data.encoder
    own = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    settings.eos_token_id = sorted({*encoder.stop_token_ids, *(token for token in own if token is not None)})
    settings.pad_token_id = encoder.pad_token_id
    return settings


class Scores(NamedTuple):
    """Scores of one model on all suites."""

    by_suite: dict[str, float]
    rows: Rows  # one for each item, on every rank; `counts` is whether its suite enters the mean
    results: dict[str, dict[str, float]]  # all metrics of lm-evaluation-harness, by task; empty for other suites

    @property
    def mean(self) -> float:
        """Over suites; a suite under several wordings counts once."""
        counting = {row["suite"] for row in self.rows if row["counts"]}
        scores = suite_scores({name: score for name, score in self.by_suite.items() if name in counting})
        return float(np.mean(list(scores.values()))) if scores else math.nan

    def items(self, name: str) -> Items | None:
        """The items of a logged score: all that count, or those of its suite; None where the harness does not tell."""
        group, _, key = name.partition("/")
        suites = {key} if key in self.by_suite else {suite for suite in self.by_suite if suite_of(suite) == suite_of(key)}
        every = group == "general" and not suites
        rows = [row for row in self.rows if (row["counts"] if every else row["suite"] in suites)]
        content = [(row["suite"], row["id"], row["prompt_hash"], row["truth"]) for row in rows]
        return Items(len(rows), "responses", digest(content)) if rows else None


def paired_error(base: Rows, now: Rows) -> float:
    """Standard error of the difference of two means over suites of the share of right responses, from two rows for each item and wording.

    The items are independent, their wordings are not: an item of a suite under several wordings stands with its mean over them.
    """
    lost: dict[str, dict[int, list[float]]] = {}
    for before, after in zip(base, now, strict=True):
        if after["counts"]:
            suite = lost.setdefault(suite_of(after["suite"]), {})
            suite.setdefault(after["id"], []).append(float(before["correct"]) - float(after["correct"]))
    if not lost:
        return math.nan
    by_item = [[np.mean(wordings) for wordings in items.values()] for items in lost.values()]
    variances = [float(np.var(items, ddof=1)) / len(items) if len(items) > 1 else math.nan for items in by_item]
    return math.sqrt(sum(variances)) / len(variances)


class Measure(Callback):
    """Logs a metric, and under ``<metric>_se`` its standard error, at some steps of a fit."""

    measures: str  # name of the metric
    measured_step: int | None = None  # optimizer step of the weights that were measured last
    every_n_epochs: int | None

    def is_asked(self, stage: str) -> bool:
        """Whether it measures in this stage."""
        return stage == "test" or (stage == "fit" and self.every_n_epochs is not None)


class GeneralMeasure(Measure, ABC):
    """Scores general abilities before training, after epochs and in test, and logs what their mean has lost since the base model."""

    measures = "general/drop"
    cache_kind: str  # begins the names of files in the cache
    suites: Mapping[str, Any]  # each is logged as `general/<suite>`
    counts = True  # whether mean and drop are logged
    same_items_in_test = False  # as during fit
    base: Scores | None = None

    @abstractmethod
    def score_model(self, trainer: Trainer, module: DomainSFT, split: Split) -> Scores:
        """Score the model as it is. Collective."""

    @abstractmethod
    def content(self, module: DomainSFT, split: Split) -> str:
        """Everything but the model that the scores depend on."""

    @abstractmethod
    def read_base(self, trainer: Trainer, module: DomainSFT, split: Split) -> Scores | None:
        """Scores of the base model from the run folder; None where there are none. Collective."""

    def metric_names(self, module: DomainSFT) -> list[str]:
        if self.every_n_epochs is None:
            return []
        names = [f"general/{name}" for name in with_spreads(dict.fromkeys(self.suites, 0.0))]
        return [*names, "general/mean", self.measures, f"{self.measures}_se"] if self.counts else names

    def restore_scores(self, trainer: Trainer, module: DomainSFT, split: Split, cached: Scores) -> Scores:
        """The cached scores as they are used. Collective."""
        return cached

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if self.every_n_epochs is None:
            return
        if pl_module.loaded_step is not None:
            self.base = self.read_base(trainer, pl_module, "val")
            if self.base is None:
                raise ValueError(f"`{type(self).__name__}` must watch a run from its start, but the checkpoint is of a run without it; leave it out to resume.")
            return
        self.base = self.base_scores(trainer, pl_module, "val")
        self.write_scores(trainer, pl_module, self.base, "epoch-0")
        if self.counts and pl_module.pretrained is not None:
            self.write_rows(trainer, self.base if self.same_items_in_test else self.base_scores(trainer, pl_module, "test"), "general-base-test")
        for board in trainer.loggers:
            board.log_metrics(self.named_scores(self.base, None), step=0)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.state.fn == "fit" and epoch_is_due(trainer, self.every_n_epochs):
            self.publish(trainer, pl_module, "val", f"epoch-{trainer.current_epoch + 1}")

    def on_test_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.base = self.read_base(trainer, pl_module, "test")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.publish(trainer, pl_module, "test", "test")

    def publish(self, trainer: Trainer, module: DomainSFT, split: Split, name: str) -> None:
        with module.scoring():
            scores = self.score_model(trainer, module, split)
        named = self.named_scores(scores, self.base)
        for key, value in named.items():
            module.log_score(key, value, scores.items(key))
        self.write_scores(trainer, module, scores, name)
        if self.measures in named:
            self.measured_step = trainer.global_step

    def base_scores(self, trainer: Trainer, module: DomainSFT, split: Split) -> Scores:
        """Scores of the base model, which the module still is, from the cache where they are. Collective."""

        def compute() -> Scores:
            with module.scoring():
                return self.score_model(trainer, module, split)

        if module.pretrained is None:
            return compute()
        about = module.base_model().scored_in(trainer, module.arithmetic).identity(trainer), self.content(module, split)
        cache = ContentCache(trainer.default_root_dir, self.cache_kind, *about)
        entry = read_or_compute(trainer, cache, lambda: Entry(record=compute()._asdict()))
        return self.restore_scores(trainer, module, split, Scores(**entry.record))

    def named_scores(self, scores: Scores, base: Scores | None) -> dict[str, float]:
        """The scores under the names that they are logged by."""
        named = {f"general/{name}": score for name, score in with_spreads(scores.by_suite).items()}
        if self.counts and scores.by_suite:
            named["general/mean"] = scores.mean
            if base is not None:
                named |= {"general/drop": base.mean - scores.mean, "general/drop_se": paired_error(base.rows, scores.rows)}
        return named

    def write_scores(self, trainer: Trainer, module: DomainSFT, scores: Scores, name: str) -> None:
        self.write_rows(trainer, scores, f"general-{name}")

    def write_rows(self, trainer: Trainer, scores: Scores, name: str) -> None:
        if trainer.is_global_zero:
            write_json_lines(responses_file(trainer, name), scores.rows)


class Budget(Callback):
    """Ends training where a metric passes its limit by more than some standard errors; a run that it has ended stays so when it is resumed."""

    measures: str  # name of the metric
    sources: str  # callbacks that log it, as the error sentence names them
    nan_exceeds: bool  # whether a value that is not a number is over the limit

    def __init__(self, limit: float, errors: float) -> None:
        check_in("errors", errors, "[0, inf)")
        self.limit = limit
        self.errors = errors
        self.stopped = False
        self._judged_step: int | None = None

    def measuring(self, trainer: Trainer) -> list[Measure]:
        """The callbacks before this one that log its metric in ``fit``."""
        before = trainer.callbacks[: trainer.callbacks.index(self)]  # type: ignore[attr-defined]
        return [callback for callback in before if isinstance(callback, Measure) and callback.measures == self.measures and callback.is_asked("fit")]

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if stage == "fit" and not self.measuring(trainer):
            raise ValueError(
                f"`{type(self).__name__}` reads `{self.measures}`, which nothing before it logs during fit; put {self.sources} with an interval before it."
            )

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        trainer.should_stop = trainer.should_stop or self.stopped
        self.judge(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        self.judge(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.judge(trainer, pl_module)

    on_train_epoch_end = on_validation_end  # type: ignore[assignment]

    def judge(self, trainer: Trainer, module: DomainSFT) -> None:
        """End the run if a new measurement of its weights is over the budget."""
        step = trainer.global_step
        if self.stopped or step == self._judged_step or all(callback.measured_step != step for callback in self.measuring(trainer)):
            return
        self._judged_step = step
        value, error = (float(trainer.callback_metrics[name]) for name in (self.measures, f"{self.measures}_se"))
        certain = value - self.errors * error
        if certain <= self.limit or (math.isnan(certain) and not self.nan_exceeds):
            self.keep(trainer, module)
            return
        self.stopped = trainer.should_stop = True
        way = self.restore(trainer, module)
        if trainer.is_global_zero:
            passed = f"{self.measures} is {value:.3g} (standard error {error:.2g}), over the budget of {self.limit:g}"
            logger.info(f"{type(self).__name__}: {passed}; the run ends after step {step} (epoch {trainer.current_epoch + 1}){way}.")

    def keep(self, trainer: Trainer, module: DomainSFT) -> None:
        """Called at each measurement within the budget."""

    def restore(self, trainer: Trainer, module: DomainSFT) -> str:
        """Called where the run is ended; returns what the log adds."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stopped = state_dict["stopped"]
