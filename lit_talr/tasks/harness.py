"""lm-evaluation-harness on a model in memory; the only file that imports it."""

import glob
import hashlib
import io
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr
from copy import deepcopy
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = version("lm_eval")
SHIPPED = Path(__file__).parent
SEEDS = (0, 1234, 1234, 1234)
"""Of Python, numpy, torch and the choice of examples: those of the harness's own command."""
BUILDERS = ("json", "csv", "parquet", "arrow", "text")
"""What `datasets` reads files by, where others are names on the hub."""
log = logging.getLogger("lm_eval")


class Loaded(NamedTuple):
    """What was asked for by one name."""

    tasks: Any  # as the harness's `TaskManager.load` gives them
    config: dict[str, Any]  # of each of its tasks: version, shots, templates, generation, filters, metrics
    files: dict[str, str]  # SHA-256 of each local data file


class SplitLM(HFLM):
    """The harness's own model class around a live model, which leaves each rank a share of the requests."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        super().__init__(pretrained=model, backend="causal", tokenizer=deepcopy(tokenizer), batch_size=batch_size)  # its padding side is changed

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return share(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return share(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return share(super().generate_until, requests)


def share(answer: Callable[[list[Instance]], list[Any]], requests: list[Instance]) -> list[Any]:
    """All answers on every rank, of which each gives those to a piece: the choices of one question, which share a forward, stay together. Collective."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    own = requests[len(requests) * rank // ranks : len(requests) * (rank + 1) // ranks]
    found = answer(own) if own else []
    if ranks == 1:
        return found
    parts: list[list[Any]] = [[] for _ in range(ranks)]
    dist.all_gather_object(parts, found)
    return [one for part in parts for one in part]


def find_tasks(names: Sequence[str], task_folder: str | None) -> tuple[TaskManager, set[str]]:
    """What knows all the names, and which of them are task files here. The harness's own files are read, for half a minute, where they are needed only.

    Raises:
        ValueError: For a name that is no task, group or tag.
    """
    folders = [SHIPPED, *([Path(task_folder).resolve()] if task_folder else [])]
    manager = TaskManager(include_path=folders, include_defaults=False)
    local = set(names) & set(manager.all_tasks)
    if local < set(names):
        manager = TaskManager(include_path=folders)
    for name in names:
        if name not in manager.all_tasks:
            near = ", ".join(get_close_matches(name, manager.all_tasks, 3)) or "none"
            raise ValueError(
                f"`tasks`: lm-evaluation-harness {VERSION} has no task `{name}` (alike: {near}); `python -m lm_eval ls tasks` lists its own, and "
                "`task_folder` adds yours."
            )
    return manager, local


def load(manager: TaskManager, name: str, data_folder: Path, num_fewshot: int | None, max_gen_toks: int | None) -> Loaded:
    """A task, a group or a tag with its data; relative paths in task files start at ``data_folder``, as those of the harness's command in that folder do.

    Raises:
        FileNotFoundError: Where a data file is not there, or empty.
        DatasetsError: For a data file that cannot be read.
        TemplateError: For one that lacks a column.
        OSError: Where its data cannot be fetched.
        ImportError: Where it needs a package.
        LookupError: Where it needs data of NLTK.
        ValueError: For a data file that is there twice, and fewer examples than shots.
    """
    known = manager.task_index[name].cfg or {}
    files = find_files(known, data_folder) if known.get("dataset_path") in BUILDERS else []
    with quiet(), chdir(data_folder):
        tasks = manager.load([name])
    for leaf, task in tasks["tasks"].items():
        if task.get_config("num_fewshot") != 0 and num_fewshot is not None:  # as the harness's command: a task that says 0 stays without
            task.set_config("num_fewshot", num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        if (shots := task.get_config("num_fewshot")) and shots > len(task.sampler.df):
            raise ValueError(f"`num_fewshot`: `{leaf}` has {len(task.sampler.df)} examples to put before a question, fewer than {shots}; ask for fewer.")
        if max_gen_toks is not None and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    config = {leaf: {"version": task.VERSION, **task.dump_config()} for leaf, task in sorted(tasks["tasks"].items())}
    hashes = {path: hashlib.sha256((data_folder / path).read_bytes()).hexdigest() for path in files}
    return Loaded(tasks, json.loads(json.dumps(config, default=spelled)), hashes)


def find_files(config: Any, folder: Path) -> list[str]:
    """The local files that a configuration names under ``data_files``, relative to the folder where they are so."""
    if not isinstance(config, dict | list):
        return []
    found: set[str] = set()
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        patterns = [pattern for pattern in strings(value) if "://" not in pattern] if key == "data_files" else []
        for pattern in patterns:
            paths = glob.glob(pattern, root_dir=folder)
            if not paths:
                raise FileNotFoundError(f"{pattern} is not there")
            if empty := [path for path in paths if not (folder / path).stat().st_size]:
                raise FileNotFoundError(f"{empty[0]} is empty")
            if twice := [path for path in paths if f"{path}.gz" in paths]:
                raise ValueError(f"`data_folder`: {folder} has both {twice[0]} and {twice[0]}.gz, whose rows would be asked twice; remove one.")
            found.update(paths)
        found.update(find_files(value, folder))
    return sorted(found)


def strings(value: Any) -> Iterator[str]:
    """All texts in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def spelled(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}" if callable(value) and hasattr(value, "__qualname__") else str(value)


def runs_code(loaded: Loaded) -> bool:
    return any(getattr(task, "UNSAFE_CODE", False) for task in loaded.tasks["tasks"].values())


def ask(model: SplitLM, loaded: Loaded, limit: int | None, chat_template: bool, allow_code_execution: bool) -> tuple[dict[str, Any], list[str]]:
    """The harness's results of each task and group with all samples, and the warnings that a prompt was cut. Collective.

    Raises:
        ValueError: For a task that lets the model write more than it can hold.
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
    with quiet() as heard:
        found = evaluate(
            model,
            loaded.tasks,
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            confirm_run_unsafe_code=allow_code_execution,
        )
    return found, [text for text in heard if "runcat" in text]


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keeps from the terminal what the harness writes there, progress bars of each of MMLU's tasks above all; its warnings are given."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        with redirect_stderr(io.StringIO()):
            yield heard
    finally:
        log.removeHandler(handler)
