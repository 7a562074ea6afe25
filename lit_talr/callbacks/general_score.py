"""Scores general abilities next to the domain: what fine-tuning costs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

from lit_talr.callbacks.base import GeneralMeasure, Rows, Scores, gather_rows, response_rows, responses_file
from lit_talr.data.example import Example, Part, Split
from lit_talr.domains.base import DomainDataModule
from lit_talr.metrics.base import DomainMetric
from lit_talr.metrics.wordings import check_wordings, suite_of
from lit_talr.modeling.generation import Generation, Response
from lit_talr.module import DomainSFT
from lit_talr.utils.errors import check_least
from lit_talr.utils.files import read_json_lines
from lit_talr.utils.progress import track

SuiteClass = Callable[[str, str | None], DomainDataModule]
"""Any data module without its tokenizer and revision, which are those of the run."""


@dataclass(eq=False)
class GeneralScore(GeneralMeasure):
    """Logs the score of general suites, ``general/<suite>``, their mean ``general/mean``, and how much the mean has lost: ``general/drop`` = base - now.

    During ``fit`` the suites' validation items are asked, in ``test`` their test items. ``general/drop_se`` is the drop's standard error over items. It is
    paired, since both models answer the same items, and takes each suite's score for the share of right responses. Every response is in
    ``answers/general-*.jsonl`` of the run folder. A suite from the domain's own source is logged but does not count in the mean.

    Suites named ``suite/wording`` are one suite under several prompt wordings, with the same items (``prompt_file`` gives a data module another wording).
    Each is logged, and so are their mean ``general/suite``, which counts once, ``general/suite/spread`` (the largest minus the smallest) and
    ``general/suite/sd``. The drop's error takes an item's mean over its wordings.

    The base model is asked once, before training. Its responses are cached in ``.cache/`` next to the run folder, under the hash of its weights and of the
    items, so that runs side by side share them.

    Args:
        suites: A name and a data module for each suite; they need no ``tokenizer``.
        every_n_epochs: Ask after every so many epochs, at least 1; null asks nothing during ``fit``.
        generation: How responses are generated, greedily by default.

    Raises:
        ValueError: For no suites, a number of epochs below 1, a single wording of a suite, wordings of other items than each other's, and a run that is
            resumed but was not watched from its start.
    """

    suites: dict[str, SuiteClass]
    every_n_epochs: int | None = 1
    generation: Generation = Generation(max_new_tokens=256)

    cache_kind = "base-responses"

    def __post_init__(self) -> None:
        if not self.suites:
            raise ValueError("`suites` must name at least one suite, got none.")
        check_wordings(self.suites)
        check_least("every_n_epochs", self.every_n_epochs, 1, "null asks nothing during fit")
        self.data: dict[str, DomainDataModule] = {}

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if not self.is_asked(stage):
            return
        pl_module.check_generation(trainer, self.generation)
        tokenizer, revision = pl_module.data.tokenizer_name, pl_module.data.tokenizer_revision
        self.data = {name: suite(tokenizer, revision) for name, suite in self.suites.items()}
        for data in self.data.values():
            data.trainer = trainer
            data.encode_prompts("test")
            if stage == "fit":
                data.encode_prompts("val")
        self.check_same_items()

    def check_same_items(self) -> None:
        """Refuses wordings of a suite that are put to different items."""
        first: dict[str, tuple[str, dict[Part, list[Any]]]] = {}
        for name, data in self.data.items():
            answers = {split: [example.meta.get("answer") for example in examples] for split, examples in data.kept.items()}
            other, expected = first.setdefault(suite_of(name), (name, answers))
            if answers != expected:
                raise ValueError(f"`suites`: {name!r} has other items than {other!r}; give wordings of one suite the same rows, or another name.")

    def score_model(self, trainer: Trainer, module: DomainSFT, split: Split, cached: Rows | None = None) -> Scores:
        """Ask the model all suites, or read the cached responses again. Collective."""
        rows: Rows = []
        by_suite: dict[str, float] = {}
        for name, data in self.data.items():
            metric: DomainMetric = data.metric().to(module.device)
            examples, own_rows = data.kept[split], []
            answered = None if cached is None else {row["id"]: row for row in cached if row["suite"] == name}
            shown = trainer.is_global_zero and answered is None
            for batch in track(list(data.prompt_plan(split)), f"General abilities: {name}", show=shown):
                asked = [examples[index] for index in batch.ids]
                if answered is None:
                    responses = module.respond([data.prompts[split][index] for index in batch.ids], self.generation)
                else:
                    responses = cached_responses(name, answered, batch.ids, asked)
                metric.update([response.text for response in responses], asked)
                own_rows += response_rows(metric, batch.ids, asked, responses)
            by_suite[name] = float(metric.compute()["score"])
            counts = data.source_name != module.data.source_name
            rows += [{"suite": name, "counts": counts, **row} for row in gather_rows(own_rows)]
        return Scores(by_suite, rows, {})

    def restore_scores(self, trainer: Trainer, module: DomainSFT, split: Split, cached: Scores) -> Scores:
        return self.score_model(trainer, module, split, cached.rows)

    def content(self, module: DomainSFT, split: Split) -> str:
        items = {name: [data.prompts[split], [example.meta.get("answer") for example in data.kept[split]]] for name, data in self.data.items()}
        return f"{self.generation} {json.dumps(items)}"

    def read_base(self, trainer: Trainer, module: DomainSFT, split: Split) -> Scores | None:
        path = responses_file(trainer, "general-base-test" if split == "test" else "general-epoch-0")
        rows = trainer.strategy.broadcast(read_json_lines(path) if path.is_file() else None)
        return None if rows is None else self.score_model(trainer, module, split, rows)


def cached_responses(suite: str, answered: Mapping[int, dict[str, Any]], ids: Sequence[int], examples: Sequence[Example]) -> list[Response]:
    """The responses to some items of a suite, from their rows by id; refuses an item that was not asked, or had another right answer."""
    for index, example in zip(ids, examples, strict=True):
        if index not in answered or answered[index]["truth"] != example.meta.get("answer"):
            raise ValueError(
                f"`GeneralScore`: the base model's responses in this run's answers/ are not to the items that `{suite}` has now (item {index} differs); "
                "ask what the run was begun with, or name another folder with `--run`."
            )
    return [Response(*(answered[index][field] for field in Response._fields)) for index in ids]
