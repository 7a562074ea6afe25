"""The wording in which a domain asks: a template with places, of the package or from a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Puts texts into the {places} of a template; braces elsewhere, as in JSON, and in the texts themselves, stay."""
    places = re.compile("{(" + "|".join(map(re.escape, values)) + ")}")
    return places.sub(lambda place: values[place[1]], template)


def read_prompt(path: Path, places: Sequence[str]) -> dict[str, str]:
    """A wording from a YAML file: the text ``user``, which holds every place in braces, and, if wanted, ``system``.

    Raises:
        ValueError: For a missing file, one that is not YAML, other keys, values that are no texts, and a place that ``user`` lacks.
    """
    if not Path(path).is_file():
        raise ValueError(f"`prompt_file`: {path} does not exist; give a YAML file with the key `user` and, if wanted, `system`.")
    try:
        prompt = yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML ({' '.join(str(error).split())}); put the text `user` in quotes, or after `|` on lines of its own.") from error
    if not isinstance(prompt, dict) or not {"user"} <= set(prompt) <= {"system", "user"} or not all(isinstance(text, str) for text in prompt.values()):
        raise ValueError(f"{path}: must hold the texts `user` and, if wanted, `system`, and nothing else.")
    for name in places:
        if "{" + name + "}" not in prompt["user"]:
            raise ValueError(f"{path}: the text `user` does not contain {{{name}}}.")
    return prompt
