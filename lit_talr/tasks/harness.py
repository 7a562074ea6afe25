"""lm-evaluation-harness on a model in memory; the only file that imports it."""

import glob
import gzip
import hashlib
import io
import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr
from copy import deepcopy
from difflib import get_close_matches
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from datasets.data_files import sanitize_patterns
from datasets.exceptions import DatasetsError
from jinja2 import Environment, TemplateError, meta
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.utils.collectives import gather_lists, has_ranks
from lit_talr.utils.waiting import fetching

VERSION = version("lm_eval")
SHIPPED = Path(__file__).parent
SEEDS = (0, 1234, 1234, 1234)
"""Seeds of Python, numpy, torch and the choice of examples, as the harness's own command sets them."""
BUILDERS = ("json", "csv", "parquet", "arrow", "text")
"""Names by which `datasets` reads local files; all other names are on the hub."""
log = logging.getLogger("lm_eval")


class Loaded(NamedTuple):
    """Tasks that one name stands for: a task, a group or a tag."""

    tasks: Any  # as the harness's `TaskManager.load` returns them
    config: dict[str, Any]  # by task: version, shots, templates, generation, filters, metrics
    files: dict[str, str]  # SHA-256 of each local data file


class SplitLM(HFLM):
    """The harness's model class around a live model; each rank responds to a share of the requests."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        own = deepcopy(tokenizer)  # its padding side is changed
        super().__init__(pretrained=model, backend="causal", tokenizer=own, batch_size=batch_size, trust_remote_code=False)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return share(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return share(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return share(super().generate_until, requests)


def share(respond: Callable[[list[Instance]], list[Any]], requests: list[Instance]) -> list[Any]:
    """All responses on every rank, each of which gives one piece: the choices of a question, which share a forward pass, stay together. Collective."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if has_ranks() else (0, 1)
    own_requests = requests[len(requests) * rank // ranks : len(requests) * (rank + 1) // ranks]
    return gather_lists(respond(own_requests) if own_requests else [])


def find_tasks(names: Sequence[str], task_folder: str | None) -> TaskManager:
    """A manager that knows all the names; refuses a name that is no task, group or tag."""
    folders = [SHIPPED, *([Path(task_folder).resolve()] if task_folder else [])]
    manager = TaskManager(include_path=folders, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):  # reading the harness's own task files takes some fifteen seconds
        manager = TaskManager(include_path=folders)
    for name in names:
        if name not in manager.all_tasks:
            similar = ", ".join(get_close_matches(name, manager.all_tasks, 3)) or "none"
            raise ValueError(
                f"`tasks`: lm-evaluation-harness {VERSION} has no task `{name}` (similar: {similar}); `python -m lm_eval ls tasks` lists its own, and "
                "`task_folder` adds yours."
            )
    return manager


def load(manager: TaskManager, name: str, data_folder: Path, num_fewshot: int | None, max_gen_toks: int | None) -> Loaded:
    """Load a task, a group or a tag with its data; relative paths in task files start at ``data_folder``.

    Raises:
        OSError: Where its data cannot be fetched; the hub may also raise a ``DatasetsError`` or another error.
        ImportError: Where it needs a package.
        LookupError: Where it needs data of NLTK.
        ValueError: For local data that is missing or unusable, and for fewer examples than shots.
    """
    with fetching(f"the data of {name}"), quiet(), chdir(data_folder), checked(data_folder) as files:
        tasks = manager.load([name])
    for leaf, task in tasks["tasks"].items():
        set_shots(leaf, task, num_fewshot)
        if max_gen_toks is not None and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    config = {leaf: {"version": task.VERSION, **task.dump_config()} for leaf, task in sorted(tasks["tasks"].items())}
    for settings in config.values():
        settings.get("metadata", {}).pop("config_source", None)  # the task file's path on this machine
    text = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, default=spell))  # addresses in memory change with every run
    return Loaded(tasks, json.loads(text), files)


def set_shots(name: str, task: Any, num_fewshot: int | None) -> None:
    """Set the number of examples before each question as the harness's command does: a task that says 0 keeps 0; refuses more than the task has."""
    own = task.get_config("num_fewshot")
    shots = (own or 0) if num_fewshot is None or own == 0 else num_fewshot
    task.set_config("num_fewshot", shots)
    if not shots:
        return
    rows, same = len(task.sampler.df), task.fewshot_cfg.split == task.config.test_split
    if shots > rows - same:
        others = " other than the question itself" if same else ""
        raise ValueError(f"`num_fewshot`: `{name}` has {rows} examples to put before a question, fewer than {shots}{others}; ask for fewer.")


@contextmanager
def checked(folder: Path) -> Iterator[dict[str, str]]:
    """Within the block, checks the local files of each task, also in groups and tags, before it reads them, and their rows afterwards.

    Yields the SHA-256 of each file. Anything wrong with the data becomes a ``ValueError``; a missing package stays an ``ImportError``.
    """
    files: dict[str, str] = {}
    build = ConfigurableTask.__init__

    def build_checked(task: Any, data_dir: Any = None, cache_dir: Any = None, download_mode: Any = None, config: Any = None) -> None:
        if (config or {}).get("dataset_path") not in BUILDERS:
            return build(task, data_dir, cache_dir, download_mode, config)
        paths: list[str] = []
        try:
            data_files = (config.get("dataset_kwargs") or {}).get("data_files")
            paths = find_files(data_files, folder)
            splits = data_files if isinstance(data_files, dict) else {"train"}
            if unknown := [key for key, value in config.items() if key.endswith("_split") and value is not None and value not in splits]:
                raise ValueError(f"`{unknown[0]}` is `{config[unknown[0]]}`, which its `data_files` lack")
            for path in set(paths) - files.keys():
                files[path] = hashlib.sha256((folder / path).read_bytes()).hexdigest()
            build(task, data_dir, cache_dir, download_mode, config)
            check_rows(task)
        except Exception as error:
            if isinstance(error, ImportError) or type(error) is LookupError:
                raise
            where = f" in {' and '.join(paths)}" if paths else ""
            raise ValueError(f"`data_folder`: {folder} lacks what `{config['task']}` reads ({reason(error)}){where}; see docs/benchmarks.md.") from error

    ConfigurableTask.__init__ = build_checked
    try:
        yield files
    finally:
        ConfigurableTask.__init__ = build


def reason(error: Exception) -> str:
    """Why something could not be read, in one line."""
    cause = error.__cause__ if isinstance(error, ImportError | DatasetsError) and error.__cause__ else error  # the outer error gives no reason
    text = " ".join(str(cause).split())[:300].rstrip(".")
    clear = type(cause) is LookupError or isinstance(cause, OSError | ImportError | ValueError | DatasetsError | TemplateError)
    return text if text and clear else f"{type(cause).__name__}: {text}".rstrip(": ")


def find_files(data_files: Any, folder: Path) -> list[str]:
    """The local files that a task names, relative to the folder; refuses missing and empty files, and a pattern of several, whose rows would all be asked."""
    if not data_files:
        raise FileNotFoundError("it names no `data_files`")
    files = set()
    for pattern in chain.from_iterable(sanitize_patterns(data_files).values()):
        if "://" in pattern:
            continue
        paths = sorted(glob.glob(pattern, root_dir=folder))
        if not paths:
            raise FileNotFoundError(f"{pattern} is not there")
        if len(paths) > 1:
            raise FileExistsError(f"{pattern} is more than one file: {', '.join(paths)}; leave one there, or name each in the task file")
        with (gzip.open if paths[0].endswith(".gz") else open)(folder / paths[0], "rb") as file:
            if not file.read(1):
                raise FileNotFoundError(f"{paths[0]} is empty")
        files.add(paths[0])
    return sorted(files)


def check_rows(task: Any) -> None:
    """Check that all items and examples have the columns that the task's templates read, and items a right answer among their choices.

    The harness would put a column's name or ``None`` into the prompt, and count an item without a right answer as wrong.
    """
    templates = [text for text in (task.config.doc_to_text, task.config.doc_to_target, task.config.doc_to_choice) if isinstance(text, str)]
    names = {text for text in templates if text.isidentifier()}  # a text that is one name can only mean a column
    if missing := sorted(names - set(task.features)):
        raise ValueError(f"there is no column `{missing[0]}`, only {', '.join(f'`{name}`' for name in task.features)}")
    read = names.union(*(meta.find_undeclared_variables(Environment().parse(text)) for text in templates))
    chooses = task.OUTPUT_TYPE == "multiple_choice" and not callable(task.config.process_results)
    for kind, rows in (("item", task.eval_docs), ("example", task.sampler.df)):
        for number, row in enumerate(rows, 1):
            if empty := sorted(name for name in read & row.keys() if row[name] is None):
                raise ValueError(f"{kind} {number} has no `{empty[0]}`")
            if chooses and kind == "item":
                choices, right = task.doc_to_choice(row), task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
                for answer in right if isinstance(right, list) else [right]:
                    if answer not in (choices if isinstance(answer, str) else range(len(choices))):
                        raise ValueError(f"the right answer of item {number} is {answer!r}, which is none of its choices {choices}")


def spell(value: Any) -> str:
    """A function by its full name; anything else as text."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) and hasattr(value, "__qualname__") else str(value)


def runs_code(loaded: Loaded) -> bool:
    return any(getattr(task, "UNSAFE_CODE", False) for task in loaded.tasks["tasks"].values())


def ask(model: SplitLM, loaded: Loaded, limit: int | None, chat_template: bool, allow_code_execution: bool) -> tuple[dict[str, Any], list[str]]:
    """The harness's results of each task and group with all samples, and its warnings that a prompt was cut. Collective.

    Every rank scores all responses, and so runs all programs of HumanEval.

    Raises:
        ValueError: For a task that lets the model write more than it can hold, and an item whose right answer is none of its choices.
    """
    for name, task in loaded.tasks["tasks"].items():
        most = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", model.max_gen_toks)
        if task.OUTPUT_TYPE == "generate_until" and most >= model.max_length:
            raise ValueError(
                f"`tasks`: `{name}` may generate {most} tokens, and the model holds {model.max_length} with the prompt; give it a lower `max_gen_toks`."
            )
        task.set_fewshot_seed(SEEDS[3])
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    torch.manual_seed(SEEDS[2])
    with quiet() as warnings:
        results = evaluate(
            model,
            loaded.tasks,
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            confirm_run_unsafe_code=allow_code_execution,
        )
    if wrong := next((text for text in warnings if text.startswith("Label index was not in")), None):
        names, item = ", ".join(f"`{name}`" for name in list(loaded.config)[:3]), " ".join(wrong.partition("Sample:")[2].split())[:200]
        raise ValueError(f"`tasks`: the right answer of an item of {names} is none of its choices: {item}; it would count as wrong, so leave the task out.")
    return results, [text for text in warnings if "runcat" in text]


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Hides what the harness writes to the terminal, such as a progress bar for each of MMLU's tasks; yields its warnings."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        with redirect_stderr(io.StringIO()):
            yield warnings
    finally:
        log.removeHandler(handler)
