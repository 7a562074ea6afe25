"""Turns errors into one sentence."""

import inspect
import re
import sys
from collections.abc import Sequence

from lightning.pytorch import Callback
from torch.optim import Optimizer

from lit_talr.cli.renamed import explain_renamed
from lit_talr.domains import DomainDataModule
from lit_talr.losses import LossStrategy
from lit_talr.training.schedules import Schedule

BASES: dict[str, type] = {"loss": LossStrategy, "data": DomainDataModule, "schedule": Schedule, "optimizer": Optimizer, "callbacks": Callback}
"""The class that an option takes, by the last word of its name."""
SHOWN = (
    *("lit_talr.losses", "lit_talr.domains", "lit_talr.lab", "lit_talr.training.schedules", "lit_talr.callbacks"),
    *("torch.optim", "lightning.pytorch.callbacks"),
)
"""Packages whose classes are listed where a class does not exist."""
READABLE = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "tuple": "a list, such as [a,b]"}
NOISE = (
    *("Expected a path but", "Does not validate", "Subtypes:", "Errors:", "Given value"),
    *("Expected a <class 'NoneType'>", "Expected a <class 'torch.Tensor'>"),
)
"""Beginnings of lines in a parser's message that help nobody."""


def explain(error: Exception, words: Sequence[str]) -> str | None:
    """The sentence for an error of a command line; None for errors that only a traceback explains."""
    if isinstance(error, (RuntimeError, ImportError)):
        return explain_library_error(str(error))
    return explain_renamed(words, str(error)) or one_sentence(str(error))


def one_sentence(message: str) -> str:
    """A parser's message without the types that it tried in vain; for a class that does not exist, with those that do."""
    message = re.sub(r"Call to compute_fn of link '.*?' (?:with args .*? )?failed: ", "", message, flags=re.DOTALL)
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    if not keys and "Errors:" not in message:
        return " ".join(message.split())
    key = ".".join(dict.fromkeys(keys))
    base = BASES.get(key.removesuffix(".init_args").rsplit(".", 1)[-1])
    missing = re.search(r"Expected a dot import path string: (\S+)|has no attribute '(\w+)'", message)
    if base and missing:
        return f"`{key}`: there is no class {missing[1] or missing[2]}; there are {', '.join(class_names(base))}."
    lines = [re.sub(r'^Parser key "[\w.]+":\s*', "", line.strip().removeprefix("- ")) for line in message.splitlines()]
    reasons = [line for line in lines if line and not line.startswith(NOISE)]
    expected = expected_values("\n".join(reasons))
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    if key and expected and value:
        return f"`{key}` must be {' or '.join(expected)}, got {value[1]}."
    return (f"`{key}`: " if key else "") + " ".join(" ".join(reasons[:1] or [message]).split())


def expected_values(reasons: str) -> list[str]:
    """The types that a parser expected, in words, then the choices of its literals."""
    types = [READABLE.get(name, name) for name in re.findall(r"^Expected a <class '(\w+)'>", reasons, re.MULTILINE)]
    return list(dict.fromkeys([*types, *re.findall(r"typing\.Literal\[(.*?)\]", reasons)]))


def class_names(base: type) -> list[str]:
    """The classes that a configuration can name where ``base`` is expected."""
    members = [member for package in SHOWN if package in sys.modules for member in vars(sys.modules[package]).values()]
    classes = {member for member in members if inspect.isclass(member) and issubclass(member, base) and member is not base}
    return sorted({member.__name__ for member in classes if not inspect.isabstract(member) and not member.__name__.startswith("_")})


def explain_library_error(message: str) -> str | None:
    """The sentence for an error of torch or transformers that is no fault of the code; None for all others."""
    if "has been toggled on" in message or "doesn't seem to be installed" in message:
        return f"`model.compute.attention` is not installed here; install its package, or set another, such as sdpa ({' '.join(message.split())})."
    if "DataLoader worker" in message:
        return (
            "a process that prepares batches (`data.batching.num_workers`) has died, most often because memory or /dev/shm is full; "
            "take fewer, and continue with `--ckpt_path last`."
        )
    if "Error(s) in loading state_dict" in message:
        return "`ckpt_path`: the checkpoint is of another model (its weights have other names or shapes); give the model, and the `model.lora`, of its run."
    return None
