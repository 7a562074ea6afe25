"""Run folders: where they are, and which point of the trade-off each one is."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_talr.utils.files import read_json

MARKS = ("trial.json", "metrics.json", "config.yaml")
"""A folder that holds one of these is a run."""


class LeftOutError(ValueError):
    """Why a run is not in the report."""


@dataclass(frozen=True)
class Run:
    """A tested run.

    Args:
        folder: Where it is.
        name: The folder's name, with as many of its parents' as make it the only one.
        trained: Whether it was trained, and is neither the base nor an interpolation.
        source: Of an interpolation, the remedy of the run that it came from.
        of: Of an interpolation, the name of that run.
        base: The name of the base's run.
    """

    folder: Path
    name: str
    variant: str | None
    remedy: str
    source: str | None
    rate: float | None
    seed: int | None
    alpha: float | None
    of: str | None
    base: str | None
    command: str
    paper_domain: float | None
    paper_general: float | None
    fit: dict[str, float]
    test: dict[str, float]

    @property
    def trained(self) -> bool:
        return self.alpha is None and self.remedy not in ("base", "wise-ft")

    @property
    def point(self) -> str:
        """What its seeds share, in words."""
        words = [self.variant, self.remedy, self.source and f"of {self.source}", None if self.rate is None else scientific(self.rate)]
        return " ".join(word for word in [*words, None if self.alpha is None else f"alpha {self.alpha:g}"] if word)


def scientific(rate: float) -> str:
    """A learning rate as people write it: ``3e-4``."""
    return np.format_float_scientific(float(f"{rate:.4g}"), trim="-", exp_digits=1)


def find(paths: Sequence[Path]) -> dict[str, Path]:
    """The run folders in or under the paths, under names that tell them apart; folders inside a run are its own."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; name runs, or folders that hold them.")
        for place, inner, files in os.walk(path.resolve()):
            is_run = any(mark in files for mark in MARKS)
            inner[:] = [] if is_run else sorted(name for name in inner if not name.startswith("."))
            if is_run:
                found[Path(place)] = None
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: holds no run; a run is a folder with {', '.join(MARKS)}.")
    return {short_name(folder, list(found)): folder for folder in found}


def short_name(folder: Path, others: Sequence[Path]) -> str:
    tails = (folder.parts[-depth:] for depth in range(1, len(folder.parts) + 1))
    return next("/".join(tail) for tail in tails if sum(other.parts[-len(tail) :] == tail for other in others) == 1)


def read_run(folder: Path, name: str) -> Run:
    """A run from its ``trial.json``, and what that does not say from its ``config.yaml``.

    Raises:
        LeftOutError: For a run that was not tested, or that nobody can place.
    """
    metrics = read_object(folder / "metrics.json")
    if not metrics:
        raise LeftOutError("has no metrics.json: it has not ended, or was not tested")
    if "test/score" not in numbers(metrics, "test"):
        raise LeftOutError("has no test/score in metrics.json: run `lit-talr test` on it")
    known = {**from_config(folder), **read_object(folder / "trial.json")}
    if "remedy" not in known:
        if "fit" in metrics:
            raise LeftOutError("has neither trial.json nor config.yaml, so nothing says what it is")
        known["remedy"] = "base"  # a model that was tested and never trained
    paper: dict[str, Any] = known["paper"] if isinstance(known.get("paper"), dict) else {}
    return Run(
        folder=folder,
        name=name,
        variant=text(known, "variant"),
        remedy=text(known, "remedy") or "unknown",
        source=text(known, "source"),
        rate=number(known, "rate"),
        seed=None if (seed := number(known, "seed")) is None else int(seed),
        alpha=number(known, "alpha"),
        of=text(known, "of"),
        base=text(known, "base"),
        command="\n".join(known["commands"] if is_texts(known.get("commands")) else fit_commands(folder)),
        paper_domain=number(paper, "domain"),
        paper_general=number(paper, "general"),
        fit=numbers(metrics, "fit"),
        test=numbers(metrics, "test"),
    )


def from_config(folder: Path) -> dict[str, Any]:
    """Remedy, rate, seed and variant as ``fit`` was configured; empty without ``config.yaml``."""
    file = folder / "config.yaml"
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        model, data = config["model"], config["data"]["init_args"]
        remedy = loss_name(model["loss"])
        if model.get("lora"):
            remedy = "lora" if remedy == "standard" else f"lora-{remedy}"
        seed = config.get("seed_everything")
        rate = float(model["optimizer"]["init_args"]["lr"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LeftOutError("has a config.yaml that is not one of `lit-talr fit`") from error
    return {"remedy": remedy, "rate": rate, "seed": seed if type(seed) is int else None, "variant": data.get("target")}


def loss_name(loss: dict[str, Any]) -> str:
    """The class in small letters, with that of a loss that it holds, unless that is the standard one."""
    inner = (loss.get("init_args") or {}).get("loss")
    name = loss["class_path"].rsplit(".", 1)[-1].lower()
    inner_name = loss_name(inner) if isinstance(inner, dict) else "standard"
    return name if inner_name == "standard" else f"{name}-{inner_name}"


def fit_commands(folder: Path) -> list[str]:
    fits = read_object(folder / "provenance.json").get("fits", [])
    return [fit["command"] for fit in fits if isinstance(fit, dict) and isinstance(fit.get("command"), str)] if isinstance(fits, list) else []


def read_object(file: Path) -> dict[str, Any]:
    """Empty where there is none.

    Raises:
        LeftOutError: For a file that is no JSON object.
    """
    try:
        found = read_json(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LeftOutError(f"has a {file.name} that is not whole JSON") from error
    if not isinstance(found, dict):
        raise LeftOutError(f"has a {file.name} that is no JSON object")
    return found


def numbers(metrics: dict[str, Any], part: str) -> dict[str, float]:
    found = metrics.get(part)
    return {name: float(value) for name, value in found.items() if is_number(value)} if isinstance(found, dict) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def text(known: dict[str, Any], key: str) -> str | None:
    value = known.get(key)
    if value is not None and not isinstance(value, str):
        raise LeftOutError(f"has a trial.json whose `{key}` is not a text but {value!r}")
    return value


def number(known: dict[str, Any], key: str) -> float | None:
    value = known.get(key)
    if value is not None and not is_number(value):
        raise LeftOutError(f"has a trial.json whose `{key}` is not a number but {value!r}")
    return value if value is None else float(value)
