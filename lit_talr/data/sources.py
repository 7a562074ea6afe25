"""The files that a source of rows names: one, several, or all that a pattern matches."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<end>\..+)?")
PATTERN = re.compile(r"[*?\[]")


def find_sources(sources: str | Sequence[str], option: str) -> list[str]:
    """Files, folders and hub names, each once; those that a pattern matches in the order of their names. What exists under its own name is no pattern.

    Args:
        sources: One or several, each a path, a pattern such as ``data/train-*.parquet`` (``**`` stands for any folders), or a hub name.
        option: What the user calls them.

    Raises:
        ValueError: For none, a pattern that matches nothing, and one that is named twice.
    """
    found: list[str] = []
    for source in [sources] if isinstance(sources, str) else sources:
        if Path(source).exists() or not PATTERN.search(source):
            found.append(source)
            continue
        if not (matches := sorted(glob.glob(source, recursive=True))):
            raise ValueError(f"`{option}`: no file matches {source}; correct the pattern, which is read from the working folder.")
        found += matches
    if not found:
        raise ValueError(f"`{option}` is an empty list; give the files or hub names of its rows, or leave it out.")
    for source in found:
        if found.count(source) > 1:
            raise ValueError(f"`{option}` names {source} more than once; name it once, since its rows would count twice.")
    return found


def missing_shards(sources: Sequence[str]) -> list[str]:
    """Sentences about shards, such as ``train-00000-of-00002.parquet``, of which others are not among the sources."""
    shards: dict[tuple[str, str, str], set[int]] = {}
    for match in filter(None, map(SHARD.fullmatch, sources)):
        shards.setdefault((match["name"], match["total"], match["end"] or ""), set()).add(int(match["number"]))
    return [
        f"{name}-*-of-{total}{end}: {len(numbers)} of its {int(total)} shards are read; give the pattern for all that are there."
        for (name, total, end), numbers in shards.items()
        if len(numbers) < int(total)
    ]
