"""General benchmarks by lm-evaluation-harness, on the model in memory."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from rich.progress import track

from lit_talr.callbacks.base import LogsDrop, gather_rows, paired_error, responses_file
from lit_talr.data.tokenizer import tokenizer_hash
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.modeling.generation import Generation
from lit_talr.module import DomainSFT
from lit_talr.tasks.base import Benchmark, Scores, check_same_items, check_same_settings, item_rows, logged, main_score
from lit_talr.utils.files import read_json, read_json_lines, write_json, write_json_lines

if TYPE_CHECKING:
    from lit_talr.tasks.harness import Loaded

logger = logging.getLogger(__name__)


class LMEval(LogsDrop):
    """Asks benchmarks of lm-evaluation-harness before ``fit``, after every so many epochs, and in ``test``.

    All their metrics are logged as ``lm_eval/<task>/<metric>``. The main ones are the run's general abilities: ``general/<task>``, their mean
    ``general/mean``, what it lost ``general/drop`` and that drop's paired standard error over items ``general/drop_se``, with a row for each item in
    ``answers/general-*.jsonl``, as ``GeneralScore`` has them and the report reads them. Beside a ``GeneralScore`` mean and drop stay its own, and the rows
    are in ``answers/lm-eval-*.jsonl``. ``lm_eval.json`` has the harness's version, each task's version, shots, templates and settings, and all results.

    The items are those that the harness asks, its test items mostly, in ``fit`` too: choose nothing by them that you will report. Numbers are those of
    the harness's own command on the export, in one process and with this batch size. The starting model is asked once for runs side by side.
    On several ranks each answers a share, but all score all answers, so that HumanEval's programs run on each; what counts is the first one's score.

    Args:
        tasks: Names of tasks, groups or tags of the harness, or of task files: ``mmlu_local``, ``gsm8k_local``, ``humaneval_local`` and ``ifeval_local``
            ship with this package and read files in ``data_folder``.
        every_n_epochs: Ask after every so many epochs, at least 1; null asks nothing during ``fit``.
        data_folder: Where the relative paths in task files start; the working folder by default.
        task_folder: More task files (``*.yaml``); they can name Python functions, so they are programs.
        batch_size: Requests that run at once, at least 1.
        chat_template: Put prompts into the tokenizer's chat template, examples as turns.
        allow_code_execution: Run what the model writes, which such tasks need; in a process with limits of time and memory, which is no sandbox.

    Raises:
        ValueError: For a value out of range, a missing harness, an unknown task or metric, data that is not in its folder, a task that runs code without
            being allowed to, sharded weights (ZeRO-3, FSDP2), and a run that is resumed or tested but was watched with other settings, or resumed but not
            watched from its start.
    """

    def __init__(
        self,
        tasks: dict[str, Benchmark],
        every_n_epochs: int | None = 1,
        data_folder: str = ".",
        task_folder: str | None = None,
        batch_size: int = 8,
        chat_template: bool = False,
        allow_code_execution: bool = False,
    ) -> None:
        if not tasks:
            raise ValueError("`tasks` must name at least one task, got none.")
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"`every_n_epochs` must be at least 1, or null for never, got {every_n_epochs}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        for argument, folder in (("data_folder", data_folder), ("task_folder", task_folder)):
            if folder is not None and not Path(folder).is_dir():
                raise ValueError(f"`{argument}` must be a folder, got {folder!r}, which is not there.")
        self.tasks = tasks
        self.every_n_epochs = every_n_epochs
        self.data_folder = Path(data_folder).resolve()
        self.task_folder = task_folder
        self.batch_size = batch_size
        self.chat_template = chat_template
        self.allow_code_execution = allow_code_execution
        self.loaded: dict[str, Loaded] = {}
        self.unavailable: dict[str, str] = {}
        self.counts = True  # whether the mean and the drop are its to log
        self.before: Scores | None = None  # of the starting model

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if not (stage == "test" or (stage == "fit" and self.every_n_epochs)):
            return
        if find_spec("lm_eval") is None:
            raise ValueError("`LMEval` needs lm-evaluation-harness, which is not installed: `pip install lit-talr[eval]`.")
        pl_module.check_generation(trainer, Generation())  # the harness asks by transformers
        others = [callback for callback in trainer.callbacks if isinstance(callback, LogsDrop) and callback is not self]  # type: ignore[attr-defined]
        if any(isinstance(other, LMEval) for other in others):
            raise ValueError("`LMEval` must be in `trainer.callbacks` once, with all tasks.")
        if shared := self.tasks.keys() & {name for other in others for name in getattr(other, "classes", ())}:
            raise ValueError(f"`general/{min(shared)}` would be logged by `LMEval` and by `GeneralScore`; give the suite another name.")
        if self.chat_template and not pl_module.data.encoder.tokenizer.chat_template:
            raise ValueError("`chat_template` needs a tokenizer with a chat template; this one has none, so leave it false.")
        self.counts = not others and any(benchmark.metric for benchmark in self.tasks.values())
        if not self.loaded:
            with isolate_rng():
                self.load(trainer)

    def load(self, trainer: Trainer) -> None:
        """The tasks and their data; what needs a download or a package that one rank has not is said, and left out on every rank. Collective."""
        failed: Exception | None = None
        try:
            self.load_here()
        except Exception as error:  # said to the other ranks, which would wait for this one
            failed = error
        problem = None if failed is None else str(failed) or type(failed).__name__
        parts = gather_rows([{"id": trainer.global_rank, "unavailable": self.unavailable, "problem": problem}], trainer)
        if failed is not None:
            raise failed
        for part in parts:
            if part["problem"] is not None:
                raise ValueError(part["problem"])
            self.unavailable = {**part["unavailable"], **self.unavailable}
        self.loaded = {name: loaded for name, loaded in self.loaded.items() if name not in self.unavailable}
        sentences = [f"`{name}` cannot be had here ({reason})" for name, reason in self.unavailable.items()]
        if not self.loaded:
            raise ValueError(f"`LMEval` has nothing to ask: {'; '.join(sentences)}.")
        if trainer.is_global_zero:
            for sentence in sentences:
                logger.warning(f"LMEval: {sentence}; the other benchmarks are asked.")

    def load_here(self) -> None:
        """On this rank alone."""
        from datasets.exceptions import DatasetsError

        from lit_talr.tasks import harness

        manager = harness.find_tasks(list(self.tasks), self.task_folder)
        for name, benchmark in self.tasks.items():
            try:
                loaded = harness.load(manager, name, self.data_folder, benchmark.num_fewshot, benchmark.max_gen_toks)
            except (OSError, ImportError, LookupError, DatasetsError, TemplateError) as error:
                self.unavailable[name] = harness.reason(error)
                continue
            if harness.runs_code(loaded) and not self.allow_code_execution:
                raise ValueError(f"`{name}` runs the code that the model writes; allow it with `allow_code_execution: true`, or leave the task out.")
            if benchmark.metric and name not in {**loaded.tasks["tasks"], **loaded.tasks.get("groups", {})}:
                raise ValueError(f"`{name}` is a tag of several tasks, which has no score of its own; name the tasks, or leave out its `metric`.")
            self.loaded[name] = loaded

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if not self.every_n_epochs:
            return
        if pl_module.loaded_step is not None:
            self.before = self.kept(trainer, pl_module)
            if self.before is None:
                raise ValueError("`LMEval` must watch a run from its start, but the checkpoint is of a run without it; leave it out to resume.")
            return
        self.before = self.start_scores(trainer, pl_module)
        self.write(trainer, pl_module, self.before, "epoch-0")
        for log in trainer.loggers:
            log.log_metrics(self.named(self.before, None), step=0)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self.publish(trainer, pl_module, self.before, f"epoch-{trainer.current_epoch + 1}")

    def on_test_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.before = self.kept(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.publish(trainer, pl_module, self.before, "test")

    def publish(self, trainer: Trainer, module: DomainSFT, before: Scores | None, name: str) -> None:
        scores = self.scores_of(trainer, module)
        for key, value in self.named(scores, before).items():
            module.log(key, value)
        self.write(trainer, module, scores, name)

    def scores_of(self, trainer: Trainer, module: DomainSFT) -> Scores:
        """Ask the model all benchmarks. Collective."""
        from lit_talr.tasks import harness

        assert module.backbone is not None
        scores, encoder = Scores({}, {}, []), module.data.encoder
        with isolate_rng(), as_exported(module):
            with harness.quiet():
                model = harness.SplitLM(module.backbone.model, encoder.tokenizer, self.batch_size)
            for name, loaded in track(self.loaded.items(), description="Asking benchmarks", transient=True, disable=not trainer.is_global_zero):
                found, cuts = harness.ask(model, loaded, self.tasks[name].limit, self.chat_template, self.allow_code_execution)
                if cuts and trainer.is_global_zero:
                    logger.warning(f"LMEval: prompts of `{name}` are longer than the model can hold and lose their beginning ({len(cuts)} warnings): {cuts[0]}")
                for task, values in found["results"].items():
                    scores.results[task] = {key: float(value) for key, value in values.items() if "," in key and isinstance(value, int | float)}
                if metric := self.tasks[name].metric:
                    scores.by_suite[name] = main_score(name, metric, scores.results[name])
                    scores.rows.extend({"suite": name, "counts": self.counts, **row} for row in item_rows(name, metric, found["samples"]))
        return trainer.strategy.broadcast(scores)

    def named(self, scores: Scores, before: Scores | None) -> dict[str, float]:
        """As they are logged: what was asked for by name, of a group its own scores, of a tag those of its tasks."""
        found: dict[str, float] = {}
        for name, loaded in self.loaded.items():
            for task in [name] if scores.results.get(name) else loaded.config:
                found |= {f"lm_eval/{task}/{logged(key)}": value for key, value in scores.results[task].items()}
        found |= {f"general/{name}": score for name, score in scores.by_suite.items()}
        if self.counts and scores.by_suite:
            found["general/mean"] = scores.mean
            if before is not None:
                check_same_items(before, scores)
                error = paired_error(list(zip(before.rows, scores.rows, strict=True)))
                found |= {"general/drop": before.mean - scores.mean, "general/drop_se": error}
        return found

    def start_scores(self, trainer: Trainer, module: DomainSFT) -> Scores:
        """Of the starting model, which the module still is; taken from where they are kept, or kept for other runs. Collective."""
        path = None
        if module.pretrained is not None:
            start, tokenizer = module.base_model(), tokenizer_hash(module.data.encoder.tokenizer)
            weights = start.weights_hash(trainer)
            model = f"{weights} {trainer.precision} {start.dtype} {start.attention} {tokenizer} {self.counts}"
            key = hashlib.sha256(f"{model} {json.dumps(self.about(module), sort_keys=True)}".encode()).hexdigest()
            path = Path(trainer.default_root_dir).resolve().parent / ".cache" / f"lm-eval-{key[:32]}.json"
            if trainer.strategy.broadcast(path.is_file()):
                return Scores(**trainer.strategy.broadcast(read_json(path)))
        scores = self.scores_of(trainer, module)
        if trainer.is_global_zero and path is not None:
            write_json(path, scores._asdict())
        return scores

    def about(self, module: DomainSFT) -> dict[str, Any]:
        """All that the answers of a model depend on."""
        from lit_talr.tasks import harness

        assert module.backbone is not None
        with as_exported(module):
            generation = module.backbone.model.generation_config.to_diff_dict()
        for name in ("_from_model_config", "transformers_version"):  # of the file that they were read from, if any
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

    def prefix(self) -> str:
        return "general" if self.counts else "lm-eval"

    def write(self, trainer: Trainer, module: DomainSFT, scores: Scores, name: str) -> None:
        if not trainer.is_global_zero:
            return
        file = Path(trainer.default_root_dir) / "lm_eval.json"
        about, known = self.about(module), {} if name == "epoch-0" else read_json(file)
        earlier = {key: value for key, value in known.get("results", {}).items() if key != name}
        if earlier:
            about |= {part: {**known[part], **about[part]} for part in ("benchmarks", "files", "tasks")}  # of what was asked then
        write_json(file, {**about, "results": {**earlier, name: {"by_suite": scores.by_suite, "results": scores.results}}})
        write_json_lines(responses_file(trainer, f"{self.prefix()}-{name}"), scores.rows)
        if name == "epoch-0" and self.counts and module.pretrained is not None:
            write_json_lines(responses_file(trainer, "general-base-test"), scores.rows)  # the same items: the report looks here

    def kept(self, trainer: Trainer, module: DomainSFT) -> Scores | None:
        """Of the starting model, in the run folder; None where there are none. Collective.

        Raises:
            ValueError: If they, or other results there, are of other settings.
        """
        file, record = responses_file(trainer, f"{self.prefix()}-epoch-0"), read_json(Path(trainer.default_root_dir) / "lm_eval.json")
        results, about = record.get("results", {}), self.about(module)
        before = Scores(**results["epoch-0"], rows=read_json_lines(file)) if file.is_file() and "epoch-0" in results else None
        before, record, about = trainer.strategy.broadcast((before, record, about))  # the folder of the first rank's machine
        if record.get("results", {}).keys() - {"test"}:  # those of an earlier test are replaced
            check_same_settings(record, about)
        return before


@contextmanager
def as_exported(module: DomainSFT) -> Iterator[None]:
    """The model in evaluation mode, and ending where its export would."""
    assert module.backbone is not None
    model, encoder = module.backbone.model, module.data.encoder
    own = model.generation_config
    model.generation_config = deepcopy(own)
    known = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    model.generation_config.eos_token_id = sorted({*encoder.stop_token_ids, *(token for token in known if token is not None)})
    model.generation_config.pad_token_id = encoder.pad_token_id
    try:
        with evaluation_mode(model):
            yield
    finally:
        model.generation_config = own
