"""Finds what lies in a run's folder from that folder: it may have been moved, or be read from another working directory."""

import os
import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def run_of(file: str) -> Path | None:
    """The folder of the run whose configuration a file is; None for any other file, such as a copy."""
    path = Path(file)
    if not re.fullmatch(r"config(\.resume-\d+)?\.yaml", path.name) or not path.with_name("provenance.json").is_file():
        return None
    return path.parent if path.parent.name else path.parent.resolve()  # a run has a name, also where it is the working directory


def follow(config: Namespace, before: str, now: Path) -> None:
    """Lets a configuration name a run by the folder that it has now, and everything that lies in it.

    Args:
        config: Of the run; changed in place.
        before: The run's folder, as the configuration names it.
        now: The folder.
    """
    for name, value in vars(config).items():
        vars(config)[name] = str(now) if name == "run" else followed(value, Path(os.path.normpath(before)), now)


def followed(value: Any, before: Path, now: Path) -> Any:
    """A value with each path into the folder as it is now; a text that names nothing there stays as it is."""
    if isinstance(value, str) and value:
        path = Path(os.path.normpath(value))
        here = now / path.relative_to(before) if path.is_relative_to(before) else None
        return str(here) if here and here.exists() else value
    if isinstance(value, Namespace):
        return Namespace(**followed(vars(value), before, now))
    if isinstance(value, dict):
        return {name: followed(part, before, now) for name, part in value.items()}
    return [followed(part, before, now) for part in value] if isinstance(value, list) else value
