"""``--resume_with NAME=VALUE``: an option that a resumed run has otherwise than its checkpoint, on purpose."""

import json
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace

from lit_talr.cli.parsers import typed_names

FLAG = "--resume_with"
ROOTS = ("model", "data", "trainer", "seed_everything")
"""First words of the options that a run is made of."""


def join_entries(words: Sequence[str]) -> list[str]:
    """A command line with all its ``--resume_with`` as one list, and the options set to what they say.

    Raises:
        ValueError: For an entry that is not NAME=VALUE, one that is given twice, and a command other than ``fit``.
    """
    rest: list[str] = []
    entries: list[Any] = []
    places = iter(words)
    for word in places:
        flag, equals, value = word.partition("=")
        if flag.rstrip("+") != FLAG:
            rest.append(word)
            continue
        text = value if equals else next(places, "")
        entries += yaml.safe_load(text) if text.startswith("[") else [text]
    if not entries:
        return list(words)
    if words[0] != "fit":
        raise ValueError(f"`{FLAG}` changes a run that is continued, `lit-talr fit --ckpt_path last`; leave it out of `{words[0]}`.")
    typed = typed_names(rest)
    for name in (names := entry_names(entries)):
        if name in typed or names.count(name) > 1:
            raise ValueError(f"`{name}` is given twice, once in `{FLAG}`; leave one out.")
    return [*rest, *option_words(entries), f"{FLAG}={json.dumps(entries)}"]


def entry_names(entries: Sequence[Any]) -> list[str]:
    """The dotted names, without ``init_args``, of entries NAME=VALUE.

    Raises:
        ValueError: For an entry of another form.
    """
    for entry in entries:
        if not isinstance(entry, str) or "=" not in entry or entry.split("=")[0].split(".")[0] not in ROOTS:
            raise ValueError(f"`{FLAG}` takes NAME=VALUE with an option of `model`, `data` or `trainer`, such as model.optimizer.lr=0.05, got {entry!r}.")
    return typed_names(option_words(entries))


def option_words(entries: Sequence[str]) -> list[str]:
    """The words that set the options."""
    return [f"--{entry}" for entry in entries]


def check_resumed(config: Namespace) -> None:
    """Refuses changes where nothing is continued.

    Raises:
        ValueError: With the way out.
    """
    if config.resume_with and not config.ckpt_path:
        raise ValueError(f"`{FLAG}` changes a run that is continued, and there is nothing to continue here; set the option, `--{config.resume_with[0]}`.")
