"""The space of a sweep, as its YAML says it."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

OF_FIT = ("--config", "--seed_everything", "--trainer", "--model", "--data")
"""What options that go to every fit begin with; a misspelt one would make each of them fail."""
BASE, WISE = "base", "wise-ft"
"""What the starting model and interpolated weights are called where others have a remedy."""


class Remedy(NamedTuple):
    """Words that make a fit use it, and the learning rates that it is tried at."""

    words: list[str]
    rates: list[float]


@dataclass(frozen=True)
class Space:
    """What is swept over."""

    raw: dict[str, Any]  # as it was written
    seeds: list[int]
    seed_words: list[str]  # options that get the seed, beside --seed_everything
    variants: dict[str | None, list[str]]  # None alone where there are none
    remedies: dict[str, Remedy]
    alphas: list[float]
    alphas_of: list[str]
    paper: dict[str, dict[str, float]]  # published numbers by variant/remedy/rate
    keep: bool


def rate_text(rate: float) -> str:
    """As it stands in names and commands: ``3e-4``, ``1.5e-5``."""
    return f"{Decimal(repr(rate)).normalize():e}".replace("+", "")


def read_space(path: Path) -> Space:
    """Read a space, strictly.

    Raises:
        ValueError: For what is unknown, missing or of another kind, in one sentence with file and key.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not YAML ({error}).") from error
    raw = mapping(raw, str(path), ("rates", "seeds", "seed_words", "variants", "remedies", "alphas", "alphas_of", "paper", "keep"))
    where = f"{path}: `{{}}`".format
    rates = positive_numbers(raw["rates"], where("rates")) if "rates" in raw else []
    named = mapping(raw.get("remedies"), where("remedies"))
    remedies = {names_file(name, where("remedies")): read_remedy(value, rates, where(f"remedies.{name}")) for name, value in named.items()}
    if taken := {BASE, WISE}.intersection(remedies):
        raise ValueError(f"{where('remedies')}: `{taken.pop()}` is the sweep's own word; give the remedy another name.")
    variants: dict[str | None, list[str]] = {None: []}
    if "variants" in raw:
        named = mapping(raw["variants"], where("variants"))
        variants = {names_file(name, where("variants")): read_words(value, where(f"variants.{name}")) for name, value in named.items()}
    alphas = several(raw.get("alphas", []), where("alphas"), lambda value: number(value, 0 <= to_float(value) <= 1, "in [0, 1]"), empty=True)
    alphas_of = several(raw.get("alphas_of", ["standard"] if alphas else []), where("alphas_of"), str, empty=True)
    if unknown := [name for name in alphas_of if name not in remedies]:
        raise ValueError(f"{where('alphas_of')}: there is no remedy `{unknown[0]}`; there are {', '.join(remedies)}.")
    if "alphas_of" in raw and not alphas:
        raise ValueError(f"{where('alphas_of')} says of which remedies, but `alphas` is missing; give it, such as [0.3, 0.5, 0.7].")
    seeds = several(raw.get("seeds", [0]), where("seeds"), seed)
    seed_words = several(raw.get("seed_words", []), where("seed_words"), option, empty=True)
    keep = raw.get("keep", True)
    if not isinstance(keep, bool):
        raise ValueError(f"{where('keep')} must be true or false, got {keep!r}.")
    paper = {
        published_key(str(key)): published(value, where(f"paper.{key}")) for key, value in mapping(raw.get("paper", {}), where("paper"), empty=True).items()
    }
    return Space(raw, seeds, seed_words, variants, remedies, alphas, alphas_of, paper, keep)


def mapping(value: Any, where: str, known: Sequence[str] | None = None, empty: bool = False) -> dict[str, Any]:
    """A mapping with something in it, and with known keys only where they are given."""
    if not isinstance(value, dict) or not (value or empty):
        raise ValueError(f"{where} must be a mapping with at least one key, got {value!r}.")
    if known is not None and (unknown := [key for key in value if key not in known]):
        raise ValueError(f"{where}: there is no key `{unknown[0]}`; there are {', '.join(known)}.")
    return value


def several(value: Any, where: str, read: Callable[[Any], Any], empty: bool = False) -> list[Any]:
    """A list of different things, each as ``read`` gives it."""
    if not isinstance(value, list) or not (value or empty):
        raise ValueError(f"{where} must be a list{'' if empty else ' with something in it'}, got {value!r}.")
    try:
        found = [read(item) for item in value]
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    if len(set(found)) < len(found):
        raise ValueError(f"{where} must hold each value once, got {value}.")
    return found


def to_float(value: Any) -> float:
    """YAML reads 1e-5 as text; not a number is NaN."""
    try:
        return float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        return math.nan


def number(value: Any, right: bool, what: str) -> float:
    if not right:
        raise ValueError(f"must hold numbers {what}, got {value!r}.")
    return float(value)


def positive_numbers(value: Any, where: str) -> list[float]:
    return several(value, where, lambda item: number(item, 0 < to_float(item) < math.inf, "above 0"))


def seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"must hold whole numbers, 0 or more, got {value!r}.")
    return value


def option(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("--") or "=" in value:
        raise ValueError(f"must hold options, such as --data.seed, got {value!r}.")
    return value


def names_file(name: Any, where: str) -> str:
    """A name that can be a part of a folder's."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{where}: a name becomes a part of a folder's, so it has letters, digits, `.`, `_` and `-` only, got {name!r}.")
    return name


def read_words(value: Any, where: str) -> list[str]:
    """Words of a command line; YAML's true, null and numbers are given back as they were written."""
    if not isinstance(value, list) or any(not isinstance(word, str | int | float | None) for word in value):
        raise ValueError(f"{where} must be a list of words, such as [-c, FILE, --key, value], dates in quotation marks, got {value!r}.")
    words = [word if isinstance(word, str) else json.dumps(word) for word in value]
    check_words(words, where)
    return words


def check_words(words: Sequence[str], where: str) -> None:
    """Refuse what would make every command fail, and what a sweep says itself in each."""
    if taken := [word for word in words if word.split("=")[0] in ("--run", "--ckpt_path")]:
        raise ValueError(f"{where}: `{taken[0].split('=')[0]}` is not for you to give: a sweep says it itself, for each trial.")
    if words and not words[0].startswith("-"):
        raise ValueError(f"{where}: `{words[0]}` belongs to no option; write --key value, or -c FILE.")
    if unknown := [word for word in words if word.startswith("--") and word.split("=")[0].split(".")[0].rstrip("+") not in OF_FIT]:
        raise ValueError(f"{where}: there is no option `{unknown[0]}`, neither of sweep nor of fit; `lit-talr sweep --help` has its own.")


def read_remedy(value: Any, rates: list[float], where: str) -> Remedy:
    """A list of words, or a mapping of these and of rates of its own."""
    if isinstance(value, dict):
        mapping(value, where, ("words", "rates"))
        if "words" not in value:
            raise ValueError(f"{where} needs `words`, a list such as [-c, configs/loss/standard.yaml].")
        rates = positive_numbers(value["rates"], f"{where}.rates") if "rates" in value else rates
        value = value["words"]
    if not rates:
        raise ValueError(f"{where} has no rates; give `rates` for all remedies, or for this one: {{words: [...], rates: [...]}}.")
    return Remedy(read_words(value, where), rates)


def published_key(key: str) -> str:
    """``standard/0.000001`` and ``standard/1e-6`` are one."""
    *front, last = key.split("/")
    return "/".join([*front, rate_text(to_float(last)) if to_float(last) > 0 else last])


def published(value: Any, where: str) -> dict[str, float]:
    mapping(value, where, ("domain", "general"))
    for name in ("domain", "general"):
        if not math.isfinite(to_float(value.get(name))):
            raise ValueError(f"{where}.{name} must be a number, got {value.get(name)!r}.")
    return {name: to_float(value[name]) for name in ("domain", "general")}
