"""A run's options as plain values under dotted names, from its configuration and from the objects that it made."""

import inspect
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lit_talr.data.batch_plan import BatchPlan
from lit_talr.domains.base import DomainDataModule

Options = dict[str, Any]
"""Plain values by dotted names without ``init_args``; the name of an object has its class, the names below it its options."""
NOT_OPTIONS = {"params", "initial_lr", "param_names"}
"""Entries of an optimizer's group that are not its options."""


def flatten(name: str, value: Any) -> Options:
    """The options of a parsed configuration.

    Args:
        name: Dotted name of the value; empty for a whole configuration.
        value: As YAML reads it; a class is ``class_path`` and ``init_args``.
    """
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    if "class_path" in value:
        return {name: full_name(value["class_path"]), **flatten_parts(name, value.get("init_args") or {})}
    return flatten_parts(name, value)


def flatten_parts(name: str, values: Mapping[str, Any]) -> Options:
    return {key: value for part in values for key, value in flatten(f"{name}.{part}".strip("."), values[part]).items()}


def full_name(path: str) -> str:
    """A class by its module, however it was named; the path itself where it cannot be imported."""
    try:
        return class_name(resolve_name(path))
    except (ImportError, AttributeError, ValueError):
        return path


def class_name(member: Any) -> str:
    return f"{member.__module__}.{member.__qualname__}"


def describe(name: str, value: Any) -> Options:
    """The options of an object: its class, and the arguments of its constructor that are attributes of the same name."""
    if isinstance(value, Enum):
        return {name: value.value}
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return {name: kind(value)}  # of a subclass, such as numpy's, the plain value
    if value is None or isinstance(value, Tensor):
        return {name: value if value is None else value.tolist()}
    if isinstance(value, Path):
        return {name: str(value)}
    if isinstance(value, Mapping):
        parts = {key: option for part in value for key, option in describe(f"{name}.{part}", value[part]).items()}
        return parts or {name: {}}
    if isinstance(value, list | tuple | set | frozenset):
        return {name: [plain(item) for item in (value if isinstance(value, list | tuple) else sorted(value, key=str))]}
    if hasattr(value, "__qualname__"):  # a class or a function
        return {name: class_name(value)}
    parts = {part: getattr(value, part) for part in option_names(type(value)) if hasattr(value, part)}
    return {name: class_name(type(value)), **{key: option for part in parts for key, option in describe(f"{name}.{part}", parts[part]).items()}}


def plain(item: Any) -> Any:
    """An item of a list as one value."""
    options = describe("", item)
    return options[""] if len(options) == 1 and "" in options else options


def option_names(cls: type) -> Iterable[str]:
    """The named arguments of a class's constructors, its base classes' included."""
    names: dict[str, None] = {}
    for part in cls.__mro__:
        if inspect.isfunction(constructor := vars(part).get("__init__")):
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
            names |= {parameter.name: None for parameter in parameters if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}
    return names


def module_options(module: Any) -> Options:
    """The options of a LightningModule, apart from its optimizer's."""
    return {name: value for name, value in describe("model", module).items() if name != "model" and not f"{name}.".startswith("model.optimizer.")}


def optimizer_options(optimizer: Optimizer) -> Options:
    """The optimizer's class, and its options: one value, or the values of all groups where they differ."""
    values: dict[str, list[Any]] = {}
    for group in optimizer.param_groups:
        for name in group.keys() - NOT_OPTIONS:
            values.setdefault(name, []).append(plain(group[name]))
    options = {f"model.optimizer.{name}": found if any(value != found[0] for value in found) else found[0] for name, found in sorted(values.items())}
    return {"model.optimizer": class_name(type(optimizer)), **options}


def data_options(data: DomainDataModule, plan: BatchPlan) -> Options:
    """How rows become steps, and the contents of the rows."""
    mixture = plan.mixture
    return {
        **describe("data.batching", data.batching),
        "data.replay.share": mixture and mixture.share,
        "data.held_out": data.held_out or None,
        "training rows (hash of their tokens)": data.encoded["train"].content_hash[:16],
        "validation rows (hash of their tokens)": data.encoded["val"].content_hash[:16] if "val" in data.encoded else None,
        **({"held-out rows (hash of their tokens)": data.encoded["held_out"].content_hash[:16]} if data.held_out else {}),
        "number of the domain's own training rows": mixture.num_own if mixture else len(plan.lengths),
    }


def trainer_options(trainer: Trainer) -> Options:
    """The trainer's options as they are in force, ``auto`` resolved; those that may always differ are left out."""
    algorithm = trainer.gradient_clip_algorithm
    return {
        "trainer.precision": str(trainer.precision),
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.gradient_clip_algorithm": "norm" if algorithm is None else str(getattr(algorithm, "value", algorithm)),
        "trainer.limit_val_batches": trainer.limit_val_batches,
        "trainer.limit_train_batches": trainer.limit_train_batches,
        "trainer.overfit_batches": trainer.overfit_batches,  # type: ignore[attr-defined]
        "trainer.num_nodes": trainer.num_nodes,
        "trainer.devices": trainer.num_devices,
        "trainer.strategy": class_name(type(trainer.strategy)),
        "trainer.accelerator": class_name(type(trainer.accelerator)),
    }
