"""Scores general abilities beside the domain: what fine-tuning costs."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from rich.progress import track

from lit_talr.callbacks.base import LogsDrop, gather_rows, judge_responses, paired_error, responses_file
from lit_talr.data.example import Example, Split
from lit_talr.domains.base import DomainDataModule
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.generation import Generation, Response
from lit_talr.module import DomainSFT
from lit_talr.utils.files import read_json_lines, write_json_lines

SuiteClass = Callable[[str, str | None], DomainDataModule]
"""Any data module, but for its tokenizer and revision, which are those of the run."""
Rows = list[dict[str, Any]]


class Scores(NamedTuple):
    """Of one model on all suites."""

    by_suite: dict[str, float]
    counting: frozenset[str]  # the suites that enter the mean
    rows: Rows  # one for each item, on every rank

    @property
    def mean(self) -> float:
        return float(np.mean([self.by_suite[name] for name in self.counting])) if self.counting else math.nan


class GeneralScore(LogsDrop):
    """Logs the score of general suites, ``general/<suite>``, their mean ``general/mean``, and what the mean lost, ``general/drop`` = starting model - now.

    The starting model answers before training, and again nothing: its answers are kept in ``.cache/`` beside the run folder under the hash of its
    weights and of the prompts, so that runs side by side share them. During ``fit`` the suites' validation items are asked, in ``test`` their test items.
    ``general/drop_se`` is the drop's standard error over items, paired: both models answered the same ones (it takes each suite's score for the share of
    right answers). Every answer is in ``answers/general-*.jsonl`` of the run folder. A suite from the domain's own source is logged but does not count
    in the mean.

    Args:
        suites: A name and a data module for each; they need no ``tokenizer``.
        every_n_epochs: Ask after every so many epochs, at least 1; null asks nothing during ``fit``.
        generation: How answers are generated, greedily by default.

    Raises:
        ValueError: For no suites, a number of epochs below 1, and a run that is resumed but was not watched from its start.
    """

    def __init__(self, suites: dict[str, SuiteClass], every_n_epochs: int | None = 1, generation: Generation = Generation(max_new_tokens=256)) -> None:
        if not suites:
            raise ValueError("`suites` must name at least one suite, got none.")
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"`every_n_epochs` must be at least 1, or null for never, got {every_n_epochs}.")
        self.classes = suites
        self.every_n_epochs = every_n_epochs
        self.generation = generation
        self.suites: dict[str, DomainDataModule] = {}
        self.before: Scores | None = None  # of the starting model, on validation items

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if not (stage == "test" or (stage == "fit" and self.every_n_epochs)):
            return
        pl_module.check_generation(trainer, self.generation)
        data = pl_module.data
        self.suites = {name: suite(data.tokenizer_name, data.tokenizer_revision) for name, suite in self.classes.items()}
        for suite in self.suites.values():
            suite.trainer = trainer
            suite.encode_prompts("test")
            if stage == "fit":
                suite.encode_prompts("val")

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """The starting model, on validation items to compare with during training, and on test items for ``test``."""
        if not self.every_n_epochs:
            return
        kept = responses_file(trainer, "general-epoch-0")
        if pl_module.loaded_step is None:
            self.before = self.start_scores(trainer, pl_module, "val", "general-epoch-0")
            if pl_module.pretrained is not None:
                self.start_scores(trainer, pl_module, "test", "general-base-test")
            for logger in trainer.loggers:
                logger.log_metrics(named(self.before, None), step=0)
        elif kept.is_file():
            self.before = self.scores_of(trainer, pl_module, "val", Known.of(read_json_lines(kept)))
        else:
            raise ValueError("`GeneralScore` must watch a run from its start, but the checkpoint is of a run without it; leave it out to resume.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self.publish(trainer, pl_module, self.scores_of(trainer, pl_module, "val"), self.before, f"general-epoch-{trainer.current_epoch + 1}")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        kept, before = responses_file(trainer, "general-base-test"), None
        if kept.is_file():
            before = self.scores_of(trainer, pl_module, "test", Known.of(read_json_lines(kept)))
        self.publish(trainer, pl_module, self.scores_of(trainer, pl_module, "test"), before, "general-test")

    def publish(self, trainer: Trainer, module: DomainSFT, scores: Scores, before: Scores | None, name: str) -> None:
        for key, value in named(scores, before).items():
            module.log(key, value)
        if trainer.is_global_zero:
            write_json_lines(responses_file(trainer, name), scores.rows)

    def start_scores(self, trainer: Trainer, module: DomainSFT, split: Split, name: str) -> Scores:
        """Of the starting model, which the module still is; its answers are taken from where they are kept, or kept for other runs. Collective."""
        path, known = None, None
        if module.pretrained is not None:
            key = self.key(f"{module.base_model().weights_hash(trainer)} {trainer.precision}", split)
            path = Path(trainer.default_root_dir).resolve().parent / ".cache" / f"general-{key[:32]}.jsonl"
            if trainer.strategy.broadcast(path.is_file()):
                known = Known.of(read_json_lines(path))
        scores = self.scores_of(trainer, module, split, known)
        if trainer.is_global_zero:
            write_json_lines(responses_file(trainer, name), scores.rows)
            if path is not None and known is None:
                write_json_lines(path, scores.rows)
        return scores

    def key(self, model: str, split: Split) -> str:
        """Of all that the starting model's answers depend on."""
        prompts = {name: suite.prompts[split] for name, suite in self.suites.items()}
        return hashlib.sha256(f"{model} {self.generation} {json.dumps(prompts)}".encode()).hexdigest()

    def scores_of(self, trainer: Trainer, module: DomainSFT, split: Split, known: "Known | None" = None) -> Scores:
        """Ask the model all suites, or take the answers that are known. Collective."""
        rows: Rows = []
        by_suite: dict[str, float] = {}
        counting = frozenset(name for name, suite in self.suites.items() if suite.source_name != module.data.source_name)
        for name, suite in self.suites.items():
            metric: DomainMetric = suite.metric().to(module.device)
            examples, own = suite.kept[split], []
            for batch in track(list(suite.prompt_plan(split)), description=f"Asking {name}", transient=True, disable=not trainer.is_global_zero or bool(known)):
                prompts = [suite.prompts[split][index] for index in batch.ids]
                asked = [examples[index] for index in batch.ids]
                answers = known.answers(name, batch.ids, asked) if known else module.respond(prompts, self.generation)
                own += judge_responses(metric, batch.ids, asked, answers)
            by_suite[name] = float(metric.compute()["score"])
            rows += [{"suite": name, "counts": name in counting, **row} for row in gather_rows(own, trainer)]
        return Scores(by_suite, counting, rows)


class Known(NamedTuple):
    """Answers that were given before, and what was right then."""

    by_item: Mapping[tuple[str, int], tuple[Response, Any]]

    @classmethod
    def of(cls, rows: Rows) -> "Known":
        return cls({(row["suite"], row["id"]): (Response(*(row[field] for field in Response._fields)), row["truth"]) for row in rows})

    def answers(self, suite: str, ids: Sequence[int], examples: Sequence[Example]) -> list[Response]:
        """Those to the items that are asked now.

        Raises:
            ValueError: Where one of them was not asked, or had another right answer.
        """
        found = [self.by_item.get((suite, index)) for index in ids]
        if other := [index for index, one, example in zip(ids, found, examples, strict=True) if one is None or one[1] != example.meta.get("answer")]:
            raise ValueError(
                f"`GeneralScore`: the starting model's answers in this run's answers/ are not to the items that `{suite}` has now (item {other[0]} differs); "
                "ask what the run was begun with, or name another folder with `--run`."
            )
        return [one[0] for one in found if one is not None]


def named(scores: Scores, before: Scores | None) -> dict[str, float]:
    """As they are logged."""
    found = {f"general/{name}": score for name, score in scores.by_suite.items()} | {"general/mean": scores.mean}
    if before is not None:
        pairs = [pair for pair in zip(before.rows, scores.rows, strict=True) if pair[0]["suite"] in scores.counting]
        found |= {"general/drop": before.mean - scores.mean, "general/drop_se": paired_error(pairs)}
    return found
