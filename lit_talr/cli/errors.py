"""Errors of the command line as one sentence."""

import inspect
import re
import sys

from lightning.pytorch import Callback
from torch.optim import Optimizer

from lit_talr.domains import DomainDataModule
from lit_talr.losses import LossStrategy
from lit_talr.training.schedules import Schedule

BASES: dict[str, type] = {"loss": LossStrategy, "data": DomainDataModule, "schedule": Schedule, "optimizer": Optimizer, "callbacks": Callback}
"""What a key of the configuration takes, by its last word."""
SHOWN = (
    "lit_talr.losses",
    "lit_talr.domains",
    "lit_talr.lab",
    "lit_talr.training.schedules",
    "lit_talr.callbacks",
    "torch.optim",
    "lightning.pytorch.callbacks",
)
READABLE = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "tuple": "a list, such as [a,b]"}


def one_sentence(message: str) -> str:
    """An error's text without the types that the parser tried in vain; for a class that does not exist, those that do."""
    message = re.sub(r"Call to compute_fn of link '.*?' (?:with args .*? )?failed: ", "", message, flags=re.DOTALL)
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    if not keys and "Errors:" not in message:
        return " ".join(message.split())
    key = ".".join(dict.fromkeys(keys))
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = [re.sub(r'^Parser key "[\w.]+":\s*', "", line) for line in lines]
    noise = (
        "Expected a path but",
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Expected a <class 'NoneType'>",
        "Expected a <class 'torch.Tensor'>",
    )
    reasons = [line for line in dict.fromkeys(lines) if line and not line.startswith(noise)]
    base = BASES.get(key.removesuffix(".init_args").rsplit(".", 1)[-1])
    missing = re.search(r"Expected a dot import path string: (\S+)|has no attribute '(\w+)'", message)
    if base and missing:
        return f"`{key}`: there is no class {missing[1] or missing[2]}; there are {', '.join(class_names(base))}."
    expected = [READABLE.get(kind, kind) for reason in reasons for kind in re.findall(r"^Expected a (?:<class '(\w+)'>|typing\.Literal\[.*?\])", reason)]
    expected = [name for name in expected if name] + [choices for reason in reasons for choices in re.findall(r"typing\.Literal\[(.*?)\]", reason)]
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    if key and expected and value:
        return f"`{key}` must be {' or '.join(dict.fromkeys(expected))}, got {value[1]}."
    return (f"`{key}`: " if key else "") + " ".join(" ".join(reasons[:1] or [message]).split())


def class_names(base: type) -> list[str]:
    """The classes that a config can name where ``base`` is expected."""
    children: list[type] = base.__subclasses__()
    names = {child.__name__ for child in children if not inspect.isabstract(child) and any(exports(package, child) for package in SHOWN)}
    return sorted({name for name in names.union(*map(class_names, children)) if not name.startswith("_")})


def exports(package: str, member: type) -> bool:
    return getattr(sys.modules.get(package), member.__name__, None) is member


def of_library_error(message: str) -> str | None:
    """In one sentence what torch and transformers say in a page, where it is no fault of the code; None for anything else."""
    if "has been toggled on" in message or "doesn't seem to be installed" in message:
        return f"`model.attention` is not installed here; install its package, or set another, such as sdpa ({' '.join(message.split())})."
    if "DataLoader worker" in message:
        return (
            "a process that prepares batches (`data.batching.num_workers`) has died, most often for want of memory or of room in /dev/shm; "
            "take fewer, and continue with `--ckpt_path last`."
        )
    if "Error(s) in loading state_dict" in message:
        return "`ckpt_path`: the checkpoint is of another model (its weights have other names or shapes); give the model, and the `model.lora`, of its run."
    return None
