"""The manifest of a folder: size and checksum of every file, written last."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from lit_talr.utils.checksums import KIND, hash_file
from lit_talr.utils.files import check_unused, read_json, write_text

MANIFEST = "lit_talr_manifest.json"
"""Its name, which no model on the hub has."""
EXEMPT = (MANIFEST, "README.md")
"""Files that it does not list; a model card changes when its model is scored."""


def file_names(folder: Path) -> list[str]:
    """The files of a folder that a manifest lists, relative to it."""
    return sorted(name for path in folder.rglob("*") if path.is_file() and (name := path.relative_to(folder).as_posix()) not in EXEMPT)


def sum_file(path: Path) -> dict[str, Any]:
    """The entry of a file."""
    return {"bytes": path.stat().st_size, KIND: hash_file(path).hexdigest()}


def write_manifest(folder: Path, files: Mapping[str, dict[str, Any]] | None = None, about: Mapping[str, Any] | None = None) -> None:
    """Writes the manifest of a folder that is complete.

    Args:
        folder: The folder.
        files: Entries that are known already; other files are read.
        about: Where the content comes from.
    """
    known = files or {}
    write_text(folder / MANIFEST, manifest_text(about or {}, {name: known.get(name) or sum_file(folder / name) for name in file_names(folder)}))


def manifest_text(about: Mapping[str, Any], files: Mapping[str, dict[str, Any]]) -> str:
    """The only text of these entries; ends with its own checksum."""
    content = {"about": about, "files": files}
    return json.dumps({**content, KIND: xxh3_128(json.dumps(content).encode()).hexdigest()}, indent=2) + "\n"


def why_changed(folder: Path, listed: str = "*") -> str | None:
    """The difference of a folder from its manifest, such as "lacks FILE"; None if there is none.

    Args:
        folder: The folder; every file that the manifest lists is read.
        listed: Pattern of the files that the manifest has to list.
    """
    if not (folder / MANIFEST).is_file():
        return f"has no {MANIFEST}, which is written last"
    text = (folder / MANIFEST).read_bytes()
    try:
        content = json.loads(text)
        files = content["files"]
        is_whole = text == manifest_text(content["about"], files).encode()
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        return f"has a {MANIFEST} that is cut short or damaged"
    if missing := [name for name in files if not (folder / name).is_file()]:
        return f"lacks {missing[0]}"
    if added := [name for name in file_names(folder) if name not in files and fnmatch(name, listed)]:
        return f"has {added[0]}, which its manifest does not list"
    for name, entry in files.items():
        if (folder / name).stat().st_size != entry["bytes"] or sum_file(folder / name) != entry:
            return f"has another {name} than was written"
    return None


def is_made(out: Path, about: Mapping[str, Any] | None = None, command: str = "") -> bool:
    """Whether a new folder is there already, whole and made by the same command from the same weights: it may have been killed right after that.

    Args:
        out: The folder.
        about: Where its content would come from; where that is not known yet, any folder with a manifest is let pass.
        command: The command, which its model card has.

    Raises:
        ValueError: If it holds anything else.
    """
    card = out / "README.md"
    if (out / MANIFEST).is_file() and card.is_file() and command in card.read_text(encoding="utf-8", errors="replace"):
        if about is None or (why_changed(out) is None and read_json(out / MANIFEST)["about"] == about):  # the former reads all weights
            return True
    check_unused(out)
    return False
