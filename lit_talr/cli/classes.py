"""Sentences about a class that an option takes: one that is not named, does not exist, or cannot be made."""

import inspect
import re
import sys
from collections.abc import Sequence

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer

from lit_talr.cli.parsers import given_options
from lit_talr.domains import DomainDataModule
from lit_talr.losses import LossStrategy
from lit_talr.training.configuration import option_names
from lit_talr.training.schedules import Schedule
from lit_talr.utils.errors import nearest

BASES: dict[str, type] = {
    **{"loss": LossStrategy, "data": DomainDataModule, "schedule": Schedule, "optimizer": Optimizer},
    **{"callbacks": Callback, "logger": Logger, "strategy": Strategy, "profiler": Profiler},
}
"""The class that an option takes, by the last word of its name."""
SHOWN = (
    *("lit_talr.losses", "lit_talr.domains", "lit_talr.lab", "lit_talr.training.schedules", "lit_talr.callbacks"),
    *("lit_talr.training.hft", "lit_talr.training.mofo", "lit_talr.training.own_samples"),
    *("torch.optim", "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "lightning.pytorch.strategies"),
    "lightning.pytorch.profilers",
)
"""Packages whose classes are listed where a class does not exist."""
FILES = {
    **{"model.loss": "configs/loss/talr.yaml", "data": "configs/data/records.yaml", "trainer.strategy": "configs/strategy/zero2.yaml"},
    **dict.fromkeys(("model.optimizer", "model.schedule", "trainer.callbacks"), "configs/base.yaml"),
}
"""Files that name a class."""
LOGGERS = ("wandb", "mlflow")
"""Packages that the extra `loggers` brings."""
OPTION = re.compile(r"Parser key \"(data|model\.loss|trainer\.callbacks)\":.*?Option '(\S+)' is not accepted", re.DOTALL)
"""A parser's message about an option that a class lacks, where none may be named."""
UNNAMED = re.compile(
    r"(?:instantiatable class, but \S+ is abstract|; there are defaults$|path string: auto$|Not a valid subclass of)"
    r".*^ *Given value: (?:\[?\{|(?P<typed>NestedArg)\(key=)'(?P<option>(?!class_path|init_args)\w+)'",
    re.DOTALL | re.MULTILINE,
)
"""A parser's message about an option of a class, where it only knows what the class must be derived from."""
UNIMPORTED = re.compile(
    r"(?:class_path '(?P<path>\S+)':|function or a callable class:)\s+(?P<cause>No module named '(?P<module>\S+?)')"
    r"(?:.*^ *Given value: (?:\{'class_path': ')?(?P<given>[\w.]+))?",
    re.DOTALL | re.MULTILINE,
)
"""A parser's message about a class whose module cannot be imported."""


def unnamed_class(message: str, words: Sequence[str]) -> str | None:
    """The sentence for an option of a class that is not named; None for all other messages."""
    keys, match = re.findall(r'Parser key "([\w.]+)"', message), UNNAMED.search(message)
    if keys and match and (base := BASES.get(keys[0].rpartition(".")[2])):
        key, option, typed = keys[0], match["option"], match["typed"]
    elif (match := OPTION.match(message)) and "class_path" not in message and not names_class(words, match[1]):
        key, option, typed, base = match[1], match[2], "NestedArg", BASES[match[1].rpartition(".")[2]]
    else:
        return None
    known = dict(sorted(classes(base).items(), key=lambda item: not item[0].lower().startswith(LOGGERS)))
    name = next((name for name, cls in known.items() if option in option_names(cls)), next(iter(known)))
    if not typed:
        return f"`{key}` has no class yet that could take `{option}`; name one beside it, such as {{class_path: {name}, init_args: {{{option}: ...}}}}."
    way_out = f"by a file such as -c {FILES[key]}" if key in FILES else f"such as --{key} {name}"
    return f"`{key}` has no class yet that could take `{option}`; name one before it, {way_out}."


def names_class(words: Sequence[str], key: str) -> bool:
    """Whether a command line, or a file in it, names the class that an option takes."""
    return any(not {key, f"{key}.class_path"}.isdisjoint(names) for _, _, names in given_options(words))


def missing_class(message: str, key: str) -> str | None:
    """The sentence for a class that does not exist, or whose module cannot be imported; None for all other messages."""
    base = BASES.get(key.removesuffix(".init_args").rsplit(".", 1)[-1])
    if (match := UNIMPORTED.search(message)) is not None and (path := match["path"] or match["given"]):
        module, other = match["module"], ", or use torch.optim.AdamW" if base is Optimizer else ""
        way_out = f"put the folder of {module} on PYTHONPATH if it is yours, or `pip install` it{other}" if path.startswith(module) else f"install {module}"
        return (f"`{key}`: " if key else "") + f"{path} cannot be imported ({match['cause']}); {way_out}."
    missing = re.search(r"Expected a dot import path string: (\S+)|module '(\S+)' has no attribute '(\w+)'", message)
    if not (base and missing):
        return None
    name, known = missing[1] or missing[3], classes(base)
    module = f" in {missing[2]}" if missing[2] and not missing[2].startswith(SHOWN) else ""
    near = nearest(name, known)[:1]
    return f"`{key}`: there is no class {name}{module}; {f'did you mean {near[0]}? T' if near else 't'}here are {', '.join(known)}."


def failed_class(message: str, key: str) -> str | None:
    """The sentence for a class that could not be made, with its own reason; None for all other messages."""
    match = re.search(r"Problem with given class_path '(?:\S+\.)?(\w+)':\s+(.+?)(?=\n\s*- |\nGiven value|\Z)", message, re.DOTALL)
    if not match:
        return None
    reason = " ".join(match[2].split())
    if missing := re.match(r"Requirement '(([\w-]+).*?)' not met", reason):
        package = "lit-talr[loggers]" if missing[2] in LOGGERS else missing[1]
        reason = f"{missing[1]} is not installed; `pip install '{package}'` brings it."
    return (f"`{key}`: " if key else "") + f"{match[1]}: {reason}"


def classes(base: type) -> dict[str, type]:
    """The classes that a configuration can name where ``base`` is expected, by their names."""
    members = [member for package in SHOWN if package in sys.modules for member in vars(sys.modules[package]).values()]
    found = {member for member in members if inspect.isclass(member) and issubclass(member, base) and member is not base}
    named = {member.__name__: member for member in found if not inspect.isabstract(member) and not member.__name__.startswith("_")}
    return dict(sorted(named.items()))
