"""The words of a command line before they are parsed: numbers, repeated keys, callbacks that are replaced."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import yaml
from lightning.pytorch.utilities import rank_zero_only

from lit_talr.cli.parsers import find_config, read_config
from lit_talr.utils.yaml_text import RepeatedKey, parse_yaml

logger = logging.getLogger(__name__)
NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\Z", re.IGNORECASE)
HYPHENS = re.compile(r"(?:-|[\u2010-\u2015\u2212]-?)(?P<name>[A-Za-z]\w[\w.+]*)(?P<value>=.*)?", re.DOTALL)
"""An option with one hyphen, or with a dash as word processors make it of two."""
CALLBACKS = "trainer.callbacks"
WITHOUT = {"Summary": "no metrics.json", "HFExport": "no export", "WholeCheckpoint": "no checkpoints that are whole wherever it is killed"}
"""Things that a run lacks without a callback of base.yaml."""


class Setting(NamedTuple):
    """A list of callbacks in a configuration or on the command line."""

    place: str
    names: list[str]
    adds: bool  # to those before it, which it would else replace


def join_numbers(words: Sequence[str]) -> list[str]:
    """The words with each negative number joined to its option; the parser takes ``-1e-3`` for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and NUMBER.match(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def refuse_dashes(words: Sequence[str]) -> None:
    """Refuses an option with one hyphen, or with a dash.

    Raises:
        ValueError: With the option as it is written.
    """
    for word in words:
        if match := HYPHENS.fullmatch(word):
            raise ValueError(f"`{word}`: options begin with two hyphens and have their whole name; write --{match['name']}{match['value'] or ''}.")


def refuse_repeated_keys(words: Sequence[str]) -> None:
    """Refuses a typed value such as ``{r: 8, r: 16}``, of which the parser would use the last.

    Raises:
        ValueError: Naming the option and the key.
    """
    for name, value in options(words):
        if value.lstrip().startswith(("{", "[")):
            try:
                parse_yaml(value)
            except RepeatedKey as error:
                raise ValueError(f"`--{name}`: {error}.") from error
            except yaml.YAMLError:
                continue  # the parser says it better


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option of a command line with its value, which may be the next word; ``-c`` goes by its long name."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-c" or word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            yield "config" if name == "-c" else name, value if equals else following


def say_lacking(words: Sequence[str]) -> None:
    """Names in the log the callbacks that a later file, or the command line, replaces, and what a fit lacks that never had those of base.yaml."""
    present: list[str] = []
    warn = rank_zero_only(logger.warning)
    is_said = words[:1] != ["fit"]
    for setting in callback_settings(words):
        gone = [] if setting.adds else list(dict.fromkeys(name for name in present if name not in setting.names))
        if gone:
            lost = f"; so the run has {listed(gone)}" if listed(gone) else ""
            warn(f"{setting.place}: `callbacks` replaces those before it, without {', '.join(gone)}{lost}; to add to them, write `callbacks+`.")
            is_said = True
        present = setting.names if not setting.adds else [*present, *setting.names]
    if not is_said and (missing := [name for name in WITHOUT if name not in present]):
        warn(f"`trainer.callbacks` is without {', '.join(missing)}; so the run has {listed(missing)}; begin with -c configs/base.yaml, which lists them.")


def forget_callbacks(words: Sequence[str]) -> list[str]:
    """The words with null before a list of callbacks, to which jsonargparse would give options of those that it replaces (as ConfigFile does for files)."""
    return [each for word in words for each in ([f"--{CALLBACKS}=null"] * (word.partition("=")[0] == f"--{CALLBACKS}") + [word])]


def listed(names: Sequence[str]) -> str:
    """Everything that a run lacks without these callbacks, in words; empty if nothing."""
    *first, last = [text for name, text in WITHOUT.items() if name in names] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def callback_settings(words: Sequence[str]) -> Iterator[Setting]:
    """All lists of callbacks, in the order in which they are read."""
    for name, value in options(words):
        if name == "config":
            trainer = read_config(find_config(value)).get("trainer")
            for key, listed in trainer.items() if isinstance(trainer, dict) else ():
                if key.rstrip("+") == "callbacks":
                    yield Setting(value, class_names(listed), key.endswith("+"))
        elif name.rstrip("+") == CALLBACKS:
            with suppress(yaml.YAMLError):  # which the parser names
                yield Setting(f"--{name}", class_names(parse_yaml(value)), name.endswith("+"))


def class_names(listed: Any) -> list[str]:
    """The classes of a list of callbacks, or of a single one."""
    paths = [item.get("class_path") if isinstance(item, dict) else item for item in (listed if isinstance(listed, list) else [listed])]
    return [str(path).rpartition(".")[2] for path in paths if path]
