"""Prompts of domains: a template with placeholders, shipped with the package or read from a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lit_talr.utils.files import shipped_file
from lit_talr.utils.yaml_text import RepeatedKey, parse_yaml

PLACEHOLDER = re.compile(r"{(\w+)}")


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Replaces the {placeholders} of a template; other braces, as in JSON, and those in the values stay."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def read_prompt(path: Path, placeholders: Sequence[str]) -> dict[str, str]:
    """Reads a prompt from a YAML file: the text ``user``, which holds every placeholder in braces, and optionally ``system``.

    A file of this package has a path such as ``lit_talr/configs/prompts/clinic_task_first.yaml``.

    Raises:
        ValueError: For a missing file, one that is not YAML, other keys, values that are no texts, and a placeholder that ``user`` lacks.
    """
    path = shipped_file(Path(path))
    if not path.is_file():
        raise ValueError(f"`prompt_file`: {path} does not exist; give a YAML file with the key `user` and, if wanted, `system`.")
    try:
        prompt = parse_yaml(path.read_bytes())
    except RepeatedKey as error:
        raise ValueError(f"{path}: {error}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML ({' '.join(str(error).split())}); put the text `user` in quotes, or after `|` on lines of its own.") from error
    if not isinstance(prompt, dict) or not {"user"} <= set(prompt) <= {"system", "user"} or not all(isinstance(text, str) for text in prompt.values()):
        raise ValueError(f"{path}: must hold the texts `user` and, if wanted, `system`, and nothing else.")
    for name in placeholders:
        if "{" + name + "}" not in prompt["user"]:
            raise ValueError(f"{path}: the text `user` does not contain {{{name}}}.")
    return prompt
