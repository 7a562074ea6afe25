"""Reads YAML whose keys are unique, as its specification asks."""

from typing import Any

import yaml


class UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice in one mapping; its own takes the last, without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise RepeatedKey(f"the key `{key.value}` stands in line {lines[key.value]} and again in line {line}; join the two")
            lines[key.value] = line
        return node


class RepeatedKey(yaml.YAMLError):
    """A key stands twice in one mapping."""


def why_not_yaml(error: Exception) -> str:
    """The end of a sentence that begins with the file, for what `parse_yaml` or decoding raised."""
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8."
    return f"{error}." if isinstance(error, RepeatedKey) else f"is not YAML ({error})."


def parse_yaml(text: str | bytes) -> Any:
    """The value of a text.

    Raises:
        yaml.YAMLError: If it is not YAML, or a key stands twice in one mapping.
    """
    return yaml.load(text, UniqueKeys)
