"""Run folders: where they are, and which point of the trade-off each one is."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_talr.utils.files import read_json, run_around
from lit_talr.utils.score import Scores, last_step, read_scores, values

MARKS = ("trial.json", "metrics.json", "config.yaml")
"""A folder that holds one of these is a run."""
TEXTS, NUMBERS = ("variant", "remedy", "source", "of", "base", "key", "code"), ("rate", "seed", "alpha")
"""The fields of a trial."""
Row = dict[str, Any]
"""A row of a table."""


class LeftOutError(ValueError):
    """The reason why a run is not in the report."""


@dataclass(frozen=True)
class Run:
    """A tested run.

    Args:
        folder: Where it is.
        name: The folder's name, with as many of its parents' as make it unique.
        source: For an interpolation, the remedy of the run that it came from.
        of: For an interpolation, the name of that run.
        base: The name of the base model's run.
        scores: Those of its test, each with what it belongs to.
        steps: Optimizer steps of its training.
        rows: Hash of the rows that it was trained on.
        num_rows: Their number.
        key: Identifies its configuration, for a sweep.
        code: Identifies the code that made it.
        marks: Everything in which it differs from most runs.
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
    scores: Scores
    steps: int | None
    rows: str | None
    num_rows: int | None
    key: str | None = None
    code: str | None = None
    marks: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether it was trained, and is neither the base nor an interpolation."""
        return self.alpha is None and self.remedy not in ("base", "wise-ft", "lines")

    @property
    def point(self) -> str:
        """The point that its seeds share, in words."""
        marks = f"({', '.join(self.marks)})" if self.marks else None
        name = point_name(self.variant, self.remedy, self.source, self.rate, self.alpha)
        return f"{name} {marks}" if marks else name


def point_name(variant: str | None, remedy: str, source: str | None, rate: float | None, alpha: float | None) -> str:
    """A point in words, without its marks."""
    words = [variant, remedy, source and f"of {source}", None if rate is None else scientific(rate), None if alpha is None else f"alpha {alpha:g}"]
    return " ".join(word for word in words if word)


def scientific(rate: float) -> str:
    """A learning rate as people write it: ``3e-4``."""
    return np.format_float_scientific(float(f"{rate:.4g}"), trim="-", exp_digits=1)


def find(paths: Sequence[Path]) -> dict[str, Path]:
    """Find the run folders in or under the paths, by their shortest unique names; folders inside a run are its own.

    Raises:
        ValueError: For a path that is no folder, and where there is no run.
    """
    runs: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder{run_around(path, 'metrics.json') or '; name runs, or folders that hold them.'}")
        for folder, inner, files in os.walk(path.resolve()):
            is_run = any(mark in files for mark in MARKS)
            inner[:] = [] if is_run else sorted(name for name in inner if not name.startswith("."))
            if is_run:
                runs[Path(folder)] = None
    if not runs:
        way_out = run_around(paths[0], "metrics.json") or f"; a run is a folder with {' or '.join(MARKS)}."
        raise ValueError(f"{', '.join(map(str, paths))}: holds no run{way_out}")
    return {short_name(folder, list(runs)): folder for folder in runs}


def short_name(folder: Path, others: Sequence[Path]) -> str:
    tails = (folder.parts[-depth:] for depth in range(1, len(folder.parts) + 1))
    return next("/".join(tail) for tail in tails if sum(other.parts[-len(tail) :] == tail for other in others) == 1)


def read_run(folder: Path, name: str) -> Run:
    """Read a run from its ``trial.json``, and what that leaves out from its ``config.yaml``.

    Raises:
        LeftOutError: For a run that was not tested or whose remedy is unknown, and for a broken file.
    """
    try:
        metrics = read_scores(folder / "metrics.json")
    except ValueError as error:
        raise LeftOutError(f"has a metrics.json that cannot be read: {error}") from error
    if not metrics:
        raise LeftOutError("has no metrics.json: it has not ended, or was not tested")
    if "test/score" not in values(metrics.get("test", {})):
        raise LeftOutError("has no test/score in metrics.json: run `lit-talr test` on it")
    trial = {**configured_trial(folder), **read_object(folder / "trial.json")}
    if "remedy" not in trial:
        if "fit" in metrics:
            raise LeftOutError("has neither trial.json nor config.yaml, so its remedy is unknown")
        trial["remedy"] = "base"  # a model that was tested and never trained
    scores = metrics["test"]
    if trial["remedy"] == "base":  # others begin with its own weights, wherever it comes from itself
        scores = {key: replace(score, base=score.base and score.weights) for key, score in scores.items()}
    paper, commands = select_numbers(trial.get("paper")), trial.get("commands")
    if not isinstance(commands, list) or not all(isinstance(line, str) for line in commands):
        commands = fit_commands(folder)
    return Run(
        **read_fields(trial),
        folder=folder,
        name=name,
        command="\n".join(commands),
        paper_domain=paper.get("domain"),
        paper_general=paper.get("general"),
        fit=values(metrics.get("fit", {})),
        test=values(scores),
        scores=scores,
        steps=last_step(metrics.get("fit", {})),
        **trained_rows(folder),
    )


def read_fields(trial: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run that come from its trial; None for a missing one."""
    fields = {key: trial.get(key) for key in (*TEXTS, *NUMBERS)}
    for key, value in fields.items():
        if value is not None and not (isinstance(value, str) if key in TEXTS else is_number(value)):
            raise LeftOutError(f"has a trial.json whose `{key}` is not {'a text' if key in TEXTS else 'a number'} but {value!r}")
    return {**fields, "remedy": fields["remedy"] or "unknown"}


def configured_trial(folder: Path) -> dict[str, Any]:
    """Remedy, rate, seed and variant in the ``config.yaml`` of a fit; empty without one."""
    file = folder / "config.yaml"
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        seed, rate = config.get("seed_everything"), float(config["model"]["optimizer"]["init_args"]["lr"])
        remedy, variant = remedy_name(config["model"]), config["data"]["init_args"].get("target")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LeftOutError("has a config.yaml that is not one of `lit-talr fit`") from error
    about = {"loss": loss_name(config["model"]["loss"]), "adapter": bool(config["model"].get("adapter"))}
    return {**about, "remedy": remedy, "rate": rate, "seed": seed if type(seed) is int else None, "variant": variant}


def remedy_name(model: dict[str, Any]) -> str:
    """The loss of a model's configuration, after its adapter, all in small letters: ``lora``, ``talr``, ``lora-l2-talr``."""
    parts = [*([class_word(model["adapter"])] if model.get("adapter") else []), loss_name(model["loss"])]
    return "-".join(part for part in parts if part != "standard" or len(parts) == 1)


def loss_name(loss: dict[str, Any]) -> str:
    """The class in small letters, with that of a loss that it holds, unless that is the standard one."""
    inner = (loss.get("init_args") or {}).get("loss")
    name = class_word(loss)
    inner_name = loss_name(inner) if isinstance(inner, dict) else "standard"
    return name if inner_name == "standard" else f"{name}-{inner_name}"


def class_word(member: dict[str, Any]) -> str:
    """The class of a part of a configuration, in small letters."""
    word: str = member["class_path"].rsplit(".", 1)[-1].lower()
    return word


def fit_commands(folder: Path) -> list[str]:
    fits = read_object(folder / "provenance.json").get("fits", [])
    return [fit["command"] for fit in fits if isinstance(fit, dict) and isinstance(fit.get("command"), str)] if isinstance(fits, list) else []


def trained_rows(folder: Path) -> dict[str, Any]:
    """The rows of a run's last fit, as its record has them."""
    fits = read_object(folder / "provenance.json").get("fits")
    rows = fits[-1].get("rows") if isinstance(fits, list) and fits and isinstance(fits[-1], dict) else None
    return {"rows": rows.get("hash"), "num_rows": rows.get("number")} if isinstance(rows, dict) else {"rows": None, "num_rows": None}


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file."""
    try:
        return read_json(file)
    except ValueError as error:
        raise LeftOutError(f"has a {file.name} that is not whole JSON") from error


def select_numbers(values: Any) -> dict[str, float]:
    """The finite numbers among the values of a mapping; empty for anything else."""
    return {name: float(value) for name, value in values.items() if is_number(value)} if isinstance(values, dict) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
