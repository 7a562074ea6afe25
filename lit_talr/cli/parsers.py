"""Parsers that raise one sentence, and the configuration files that they read."""

import re
from argparse import Action, HelpFormatter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lit_talr.cli.moved import follow, run_of
from lit_talr.utils.errors import nearest
from lit_talr.utils.yaml_text import parse_yaml, why_not_yaml

PACKAGE = Path(__file__).parents[1]
LINKED = {
    "trainer.default_root_dir": "it is the folder of the run, `--run`",
    "data.tokenizer": "the tokenizer is the model's, or `model.tokenizer`",
    "data.tokenizer_revision": "the tokenizer is the model's, or `model.tokenizer`",
}
"""Options that follow from others, which the parser would overrule silently, or refuse without a reason."""

GENERAL = re.compile(r"(--?)?(h|help|c|config|print_\w+|version)(\.|$)")
"""Options that every command has."""


class VerbParser(ArgumentParser):
    """Raises its message, where it would print a page of usage and exit; parses commands that are functions."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(message + way_out(message, getattr(ex, "subcommand_parser", None) or self)) from ex


class Parser(VerbParser, LightningArgumentParser):
    """Parses commands that take a configuration. ``--help`` leaves out the options of Lightning's trainer, which ``--help-all`` has."""

    explains_all = False

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        whole = self._action_groups, self.usage, self.description, self.epilog
        left_out = [group for group in whole[0] if any(action.dest.startswith("trainer") for action in group._group_actions)]
        if left_out and not self.explains_all:
            *options, last = [group for group in whole[0] if group not in left_out]  # the last one is ckpt_path
            self._action_groups = [*options[:2], last, *options[2:]]
            self.usage = "%(prog)s -c FILE [-c FILE ...] [--KEY VALUE ...]"
            self.description = None  # which is the title of a group, too
            self.epilog = "--trainer.NAME are the options of Lightning's Trainer: --help-all"
        try:
            return super().format_help(formatter)
        finally:
            self._action_groups, self.usage, self.description, self.epilog = whole


class HelpAll(Action):
    """Prints the help with all options."""

    def __call__(self, parser: Any, namespace: object, values: object, option_string: str | None = None) -> None:
        parser.explains_all = True
        parser.print_help()
        parser.exit()


def way_out(message: str, parser: ArgumentParser) -> str:
    """The end of a message about a word that a parser does not know: the nearest option, or the ``-c`` before a file."""
    if match := re.search(r"(?:Group '(\S+)' does not accept o|[oO])ption '(\S+)'(?: is not accepted)?$", message):
        name, known = ".".join(filter(None, match.groups())), [action.dest for action in parser._actions]
        if name.endswith("class_path"):
            return "; the options of a class stand under `init_args`, such as {class_path: TALR, init_args: {floor: 0.1}}"
    elif match := re.search(r"unrecognized arguments: (\S+)", message):
        name, known = match[1].split("=")[0], list(parser._option_string_actions)
        file = Path(name.lstrip("-"))
        if file.suffix in (".yaml", ".yml", ".json") or (file / "config.yaml").is_file():
            return f"; write -c before a configuration file: -c {file / 'config.yaml' if file.is_dir() else file}"
    else:
        return ""
    return nearest_or_all(name, known)


def nearest_or_all(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown option: the nearest of the same class or group, or else all of these."""
    group = f"{name.rpartition('.')[0]}."
    beside = [other.removeprefix(group) for other in known if other.startswith(group)]
    group, last, beside = (group, name.removeprefix(group), beside) if beside else ("", name, list(known))
    initials = "".join(word[:1] for word in last.split("_"))  # lr, of learning_rate
    if near := nearest(last, beside) or [other for other in beside if other == initials]:
        return f"; did you mean {group}{near[0]}?"
    listed = dict.fromkeys(other.split(".")[0].rstrip("+") for other in beside if not GENERAL.match(other))
    return f"; there are {', '.join(listed)}" if listed else ""


class ConfigFile(ActionConfigFile):
    """Reads ``-c FILE``, by its path or by the path of a file that is shipped with the package."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        path = find_config(value)
        config = read_config(path)
        refuse_linked(option_names(config), f"{path}: `")
        for name in lists_of(config):
            if name in cfg:
                cfg[name] = None  # jsonargparse gives items of a list of the same length the options of those that they replace
        ActionConfigFile.apply_config(parser, cfg, dest, path)
        if run := run_of(path):
            follow(cfg, str(config.get("run", run)), run)


def find_config(path: str) -> str:
    """The path itself, or the shipped file of that name where the working folder has none."""
    shipped = PACKAGE / path
    if not Path(path).is_file() and not shipped.is_file():
        elsewhere = sorted(str(file.relative_to(PACKAGE)) for file in (PACKAGE / "configs").rglob("*.yaml") if file.name == Path(path).name)
        way_out = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else "."
        raise ValueError(f"{path}: no such configuration file, neither here nor among those shipped in {PACKAGE / 'configs'}{way_out}")
    return path if Path(path).is_file() else str(shipped)


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        ValueError: If it is not YAML, or holds no settings.
    """
    try:
        config = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {why_not_yaml(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds no settings, such as `trainer: {{max_epochs: 2}}`; write some, or leave it out.")
    return config


def option_names(config: object, prefix: str = "") -> Iterator[str]:
    """The dotted names of all options in a configuration, without ``init_args``; options of a list's items go by the name of the list."""
    for item in config if isinstance(config, list) else [config]:
        for key, value in item.items() if isinstance(item, dict) else ():
            name = prefix if key == "init_args" else f"{prefix}.{key}".strip(".+")
            yield name
            yield from option_names(value, name)


def lists_of(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all lists that a configuration sets, and not only adds to."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from lists_of(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}"


def typed_names(words: Sequence[str]) -> list[str]:
    """The dotted names of all options on a command line, without ``init_args``."""
    return [word[2:].split("=")[0].replace(".init_args", "").rstrip("+") for word in words if word.startswith("--")]


def given_options(words: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """The command line, then each of its files that can be read: the beginning of a sentence about it, its text, its options."""
    yield "", " ".join(words), typed_names(words)
    for path in (word.split("=", 1)[-1] for word in words):
        if path.endswith((".yaml", ".yml", ".json")):
            with suppress(ValueError, OSError):  # which the parser has named, if it is about this file
                path = find_config(path)
                yield f"{path}: ", Path(path).read_text(encoding="utf-8"), list(option_names(read_config(path)))


def join_answers(answers: Mapping[str, Mapping[str, str]]) -> str:
    """The answers to names, by the places where these stand, as sentences."""
    return " ".join(f"{place}{'; '.join(f'`{name}` {answer}' for name, answer in found.items())}." for place, found in answers.items() if found)


def refuse_linked(names: Iterable[str], place: str = "`--") -> None:
    """Refuses options that follow from others.

    Raises:
        ValueError: Naming the option to give instead.
    """
    for name in names:
        if name in LINKED:
            raise ValueError(f"{place}{name}` is not an option of its own: {LINKED[name]}.")
