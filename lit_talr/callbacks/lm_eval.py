"""General benchmarks by lm-evaluation-harness, on the model in memory."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lit_talr.callbacks.base import GeneralMeasure, Scores, exported_generation, responses_file
from lit_talr.data.example import Split
from lit_talr.data.tokenizer import tokenizer_hash
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.modeling.generation import Generation
from lit_talr.module import DomainSFT
from lit_talr.tasks.base import Benchmark, check_same_items, check_same_settings, item_rows, logged, main_score
from lit_talr.tasks.code_tests import has_sandbox
from lit_talr.utils.collectives import gather_lists
from lit_talr.utils.errors import check_least, first_line
from lit_talr.utils.files import read_json, read_json_lines, write_json
from lit_talr.utils.progress import track

if TYPE_CHECKING:
    from lit_talr.tasks.harness import Loaded

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class LMEval(GeneralMeasure):
    """Asks benchmarks of lm-evaluation-harness before ``fit``, after every so many epochs, and in ``test``.

    All their metrics are logged as ``lm_eval/<task>/<metric>``. The main ones are the run's general abilities: ``general/<task>``, ``general/mean``,
    ``general/drop`` and ``general/drop_se``, with rows in ``answers/general-*.jsonl``, as ``GeneralScore`` has them. Next to a ``GeneralScore``, mean and drop
    stay its own, and the rows are in ``answers/lm-eval-*.jsonl``. ``lm_eval.json`` has the harness's version, the tasks' settings, and all results.

    The harness asks mostly test items, in ``fit`` too: choose nothing by them that you will report. Numbers are those of the harness's own command on the
    export, in one process and with this batch size. The base model's scores are cached for runs side by side. Each rank responds to a share of the items, but
    all ranks score all responses, so that HumanEval's programs run on each; the first rank's score counts.

    Args:
        tasks: Names of tasks, groups or tags of the harness, or of task files: ``mmlu_local``, ``gsm8k_local``, ``humaneval_local`` and ``ifeval_local``
            ship with this package and read files in ``data_folder``.
        every_n_epochs: Ask after every so many epochs, at least 1; null asks nothing during ``fit``.
        data_folder: Folder that relative paths in task files start from; the working folder by default.
        task_folder: More task files (``*.yaml``); they can name Python functions, so they are programs.
        batch_size: Requests that run at once, at least 1.
        chat_template: Put prompts into the tokenizer's chat template, examples as turns.
        allow_code_execution: Run the code that the model writes, as some tasks need; that of ``humaneval_local`` in a sandbox, where bubblewrap is installed.

    Raises:
        ValueError: For a value out of range, a missing harness, unknown task or metric, missing data, a task that may not run code, sharded weights (ZeRO-3,
            FSDP2), and a run that is resumed or tested but was watched with other settings, or not from its start.
    """

    tasks: dict[str, Benchmark]
    every_n_epochs: int | None = 1
    data_folder: str = "."
    task_folder: str | None = None
    batch_size: int = 8
    chat_template: bool = False
    allow_code_execution: bool = False

    cache_kind = "base-lm-eval"
    same_items_in_test = True

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("`tasks` must name at least one task, got none.")
        check_least("every_n_epochs", self.every_n_epochs, 1, "null asks nothing during fit")
        check_least("batch_size", self.batch_size, 1)
        for argument, folder in (("data_folder", self.data_folder), ("task_folder", self.task_folder)):
            if folder is not None and not Path(folder).is_dir():
                raise ValueError(f"`{argument}` must be a folder, got {folder!r}, which is not there.")
        self.suites = self.tasks
        self.folder = Path(self.data_folder).resolve()
        self.loaded: dict[str, Loaded] = {}
        self.unavailable: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if not self.is_asked(stage):
            return
        if find_spec("lm_eval") is None:
            raise ValueError("`LMEval` needs lm-evaluation-harness, which is not installed: `pip install lit-talr[eval]`.")
        pl_module.check_generation(trainer, Generation())  # the harness generates with transformers
        others = [callback for callback in trainer.callbacks if isinstance(callback, GeneralMeasure) and callback is not self]  # type: ignore[attr-defined]
        if any(isinstance(other, LMEval) for other in others):
            raise ValueError("`LMEval` must be in `trainer.callbacks` once, with all tasks.")
        if shared := self.tasks.keys() & {name for other in others for name in other.suites}:
            raise ValueError(f"`general/{min(shared)}` would be logged by `LMEval` and by `GeneralScore`; give the suite another name.")
        if self.chat_template and not pl_module.data.encoder.tokenizer.chat_template:
            raise ValueError("`chat_template` needs a tokenizer with a chat template; this one has none, so leave it false.")
        self.counts = not others and any(benchmark.metric for benchmark in self.tasks.values())
        if not self.loaded:
            with isolate_rng():
                self.load(trainer)

    def load(self, trainer: Trainer) -> None:
        """Load the tasks and their data; a task that one rank cannot get is left out on every rank, with a warning. Collective."""
        failure: Exception | None = None
        try:
            self.load_here()
        except Exception as error:  # reported to the other ranks, which would wait for this one
            failure = error
        reports = gather_lists([(self.unavailable, None if failure is None else first_line(failure))])
        if failure is not None:
            raise failure
        for unavailable, problem in reports:
            if problem is not None:
                raise ValueError(problem)
            self.unavailable = {**unavailable, **self.unavailable}
        self.loaded = {name: loaded for name, loaded in self.loaded.items() if name not in self.unavailable}
        sentences = [f"`{name}` is not available here ({reason})" for name, reason in self.unavailable.items()]
        if not self.loaded:
            raise ValueError(f"`LMEval` has nothing to ask: {'; '.join(sentences)}.")
        if trainer.is_global_zero:
            for sentence in sentences:
                logger.warning(f"LMEval: {sentence}; the other benchmarks are asked.")

    def load_here(self) -> None:
        """Load on this rank alone."""
        from datasets.exceptions import DatasetsError

        from lit_talr.tasks import harness

        manager = harness.find_tasks(list(self.tasks), self.task_folder)
        for name, benchmark in self.tasks.items():
            try:
                loaded = harness.load(manager, name, self.folder, benchmark.num_fewshot, benchmark.max_gen_toks)
            except (OSError, ImportError, LookupError, DatasetsError, TemplateError) as error:
                self.unavailable[name] = harness.reason(error)
                continue
            if harness.runs_code(loaded) and not self.allow_code_execution:
                raise ValueError(f"`{name}` runs the code that the model writes; allow it with `allow_code_execution: true`, or leave the task out.")
            if harness.runs_code(loaded):
                has_sandbox()  # says before training where there is none
            if benchmark.metric and name not in {**loaded.tasks["tasks"], **loaded.tasks.get("groups", {})}:
                raise ValueError(f"`{name}` is a tag of several tasks, which has no score of its own; name the tasks, or leave out its `metric`.")
            self.loaded[name] = loaded

    def score_model(self, trainer: Trainer, module: DomainSFT, split: Split) -> Scores:
        from lit_talr.tasks import harness

        assert module.backbone is not None
        scores, encoder = Scores({}, [], {}), module.data.encoder
        with isolate_rng(), as_exported(module):
            with harness.quiet():
                model = harness.SplitLM(module.backbone.model, encoder.tokenizer, self.batch_size)
            for name, loaded in track(self.loaded.items(), "Benchmarks", show=trainer.is_global_zero):
                output, cuts = harness.ask(model, loaded, self.tasks[name].limit, self.chat_template, self.allow_code_execution)
                if cuts and trainer.is_global_zero:
                    logger.warning(f"LMEval: prompts of `{name}` are longer than the model can hold and lose their beginning ({len(cuts)} warnings): {cuts[0]}")
                for task, values in output["results"].items():
                    scores.results[task] = {key: float(value) for key, value in values.items() if "," in key and isinstance(value, int | float)}
                if metric := self.tasks[name].metric:
                    scores.by_suite[name] = main_score(name, metric, scores.results[name])
                    scores.rows.extend({"suite": name, "counts": self.counts, **row} for row in item_rows(name, metric, output["samples"]))
        return trainer.strategy.broadcast(scores)

    def named_scores(self, scores: Scores, base: Scores | None) -> dict[str, float]:
        """Adds the metrics of all that was asked for by name: a group's own scores, and those of a tag's tasks."""
        named: dict[str, float] = {}
        for name, loaded in self.loaded.items():
            for task in [name] if scores.results.get(name) else loaded.config:
                named |= {f"lm_eval/{task}/{logged(key)}": value for key, value in scores.results[task].items()}
        if base is not None and self.counts and scores.by_suite:
            check_same_items(base.rows, scores.rows)
        return named | super().named_scores(scores, base)

    def metric_names(self, module: DomainSFT) -> list[str]:
        return [*super().metric_names(module), "lm_eval/*"] if self.every_n_epochs else []

    def content(self, module: DomainSFT, split: Split) -> str:
        return f"{tokenizer_hash(module.data.encoder.tokenizer)} {self.counts} {json.dumps(self.settings(module), sort_keys=True)}"

    def settings(self, module: DomainSFT) -> dict[str, Any]:
        """Everything that a model's responses depend on, and the tasks that are left out."""
        from lit_talr.tasks import harness

        generation = exported_generation(module).to_diff_dict()
        for name in ("_from_model_config", "transformers_version"):  # they tell about the file that was read, if any
            generation.pop(name, None)
        return {
            "lm_eval": harness.VERSION,
            "benchmarks": {name: asdict(self.tasks[name]) for name in self.loaded},
            "unavailable": self.unavailable,
            "batch_size": self.batch_size,
            "chat_template": module.data.encoder.tokenizer.chat_template if self.chat_template else None,
            "seeds": harness.SEEDS,
            "generation": generation,
            "files": {path: digest for loaded in self.loaded.values() for path, digest in loaded.files.items()},
            "tasks": {name: config for loaded in self.loaded.values() for name, config in loaded.config.items()},
        }

    @property
    def prefix(self) -> str:
        return "general" if self.counts else "lm-eval"

    def write_scores(self, trainer: Trainer, module: DomainSFT, scores: Scores, name: str) -> None:
        self.write_rows(trainer, scores, f"{self.prefix}-{name}")
        if not trainer.is_global_zero:
            return
        settings, record = self.settings(module), {} if name == "epoch-0" else read_json(record_file(trainer))
        earlier = {key: value for key, value in record.get("results", {}).items() if key != name}
        if earlier:
            settings |= {part: {**record[part], **settings[part]} for part in ("benchmarks", "files", "tasks")}  # also those of earlier models
        write_json(record_file(trainer), {**settings, "results": {**earlier, name: {"by_suite": scores.by_suite, "results": scores.results}}})

    def read_base(self, trainer: Trainer, module: DomainSFT, split: Split) -> Scores | None:
        """Scores of the base model from the run folder; refuses results there that are of other settings."""
        path, record = responses_file(trainer, f"{self.prefix}-epoch-0"), read_json(record_file(trainer))
        results, settings = record.get("results", {}), self.settings(module)
        base = Scores(**results["epoch-0"], rows=read_json_lines(path)) if path.is_file() and "epoch-0" in results else None
        base, record, settings = trainer.strategy.broadcast((base, record, settings))
        if record.get("results", {}).keys() - {"test"}:  # those of an earlier test are replaced
            check_same_settings(record, settings)
        return base


def record_file(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "lm_eval.json"


@contextmanager
def as_exported(module: DomainSFT) -> Iterator[None]:
    """Runs the block with the model in evaluation mode and with the generation settings of its export."""
    assert module.backbone is not None
    model = module.backbone.model
    settings, model.generation_config = model.generation_config, exported_generation(module)
    try:
        with evaluation_mode(model):
            yield
    finally:
        model.generation_config = settings
