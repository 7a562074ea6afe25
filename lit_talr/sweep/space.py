"""The space of a sweep, read from YAML."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, restricted_number_type, restricted_string_type

from lit_talr.utils.yaml_text import parse_yaml, why_not_yaml

BASE = "base"
"""The remedy of base models."""
MERGES = {"linear": "wise-ft", "lines": "lines"}
"""The remedy of merged weights by the method of ``merge``."""
RESERVED = {
    **dict.fromkeys(("--run", "--ckpt_path"), "for each trial; leave it out"),
    "--seed_everything": "from `seeds` of the space; write it there",
    "--model.optimizer.lr": "from `rates` of the space, or of a remedy; write it there",
}
"""Options that a sweep sets itself, and from what."""
KEYS = ("rates", "seeds", "seed_words", "variants", "remedies", "alphas", "alphas_of", "methods", "paper", "keep")
Rate = restricted_number_type("Rate", float, [(">", 0), ("<", math.inf)])
Option = restricted_string_type("Option", r"^--[^=]+\Z")
Item = TypeVar("Item")


class Remedy(NamedTuple):
    """A way of training: the words that select it, the learning rates that it is tried at, and the variants that it is tried in."""

    words: list[str]
    rates: list[float]
    variants: list[str | None]


@dataclass(frozen=True)
class Space:
    """The dimensions of a sweep; docs/sweep.md explains the keys."""

    raw: dict[str, Any]  # as written
    seeds: list[int]
    seed_words: list[str]  # options that take the seed, next to --seed_everything
    variants: dict[str | None, list[str]]  # {None: []} where the space has none
    remedies: dict[str, Remedy]
    alphas: list[float]
    alphas_of: list[str]
    methods: list[str]  # of ``merge``
    paper: dict[str, dict[str, float]]  # published scores by variant/remedy/rate
    keep: bool


def rate_text(rate: float) -> str:
    """A rate as names and commands have it: ``3e-4``, ``1.5e-5``."""
    return f"{Decimal(repr(rate)).normalize():e}".replace("+", "")


def read_space(path: Path) -> Space:
    """Read a space, strictly.

    Raises:
        ValueError: For a key that is unknown or missing, and for a value of the wrong type or range; the sentence names file and key.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {why_not_yaml(error)}") from error
    try:
        return check_space(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_space(raw: Any) -> Space:
    """The space in parsed YAML."""
    check_mapping(raw, "the space", KEYS)
    paper = raw.get("paper", {})
    if "paper" in raw:
        check_mapping(paper, "`paper`")
    rates = read_list(raw["rates"], "`rates`", Rate, "numbers above 0") if "rates" in raw else []
    variants: dict[str | None, list[str]] = {None: []}
    if "variants" in raw:
        check_mapping(raw["variants"], "`variants`")
        variants = {str(name): read_words(value, f"`variants.{name}`") for name, value in raw["variants"].items()}
    check_mapping(raw.get("remedies"), "`remedies`")
    remedies = {str(name): read_remedy(value, rates, list(variants), f"`remedies.{name}`") for name, value in raw["remedies"].items()}
    if reserved := {BASE, *MERGES.values()}.intersection(remedies):
        raise ValueError(f"`remedies`: `{reserved.pop()}` is reserved for the sweep; give the remedy another name.")
    if idle := [name for name in variants if not any(name in remedy.variants for remedy in remedies.values())]:
        raise ValueError(f"`variants`: no remedy is tried in `{idle[0]}`; name it in the `variants` of one, or leave it out.")
    if wrong := [name for name in (*remedies, *variants) if name is not None and not re.fullmatch(r"\w[\w.-]*", name)]:
        raise ValueError(f"`{wrong[0]}` becomes part of a folder's name; name variants and remedies with letters, digits, `.`, `_` and `-` only.")
    refuse_equal(remedies, variants)
    alphas = read_list(raw.get("alphas", []), "`alphas`", ClosedUnitInterval, "numbers in [0, 1]", can_be_empty=True)
    alphas_of = read_list(raw.get("alphas_of", ["standard"] if alphas else []), "`alphas_of`", str, "remedies", can_be_empty=True)
    if unknown := [name for name in alphas_of if name not in remedies]:
        raise ValueError(f"`alphas_of`: there is no remedy `{unknown[0]}`; there are {', '.join(remedies)}.")
    if "alphas_of" in raw and not alphas:
        raise ValueError("`alphas_of` selects remedies to interpolate, but `alphas` is missing; give it, such as [0.3, 0.5, 0.7].")
    methods = read_list(raw.get("methods", ["linear"]), "`methods`", str, "methods of `lit-talr merge`")
    if unknown := [name for name in methods if name not in MERGES]:
        raise ValueError(f"`methods`: there is no method `{unknown[0]}`; there are {', '.join(MERGES)}.")
    if "methods" in raw and not alphas:
        raise ValueError("`methods` says how to merge, but `alphas` is missing; give it, such as [0.3, 0.5, 0.7].")
    keep = raw.get("keep", True)
    if not isinstance(keep, bool):
        raise ValueError(f"`keep` must be true or false, got {keep!r}.")
    return Space(
        raw=raw,
        seeds=read_list(raw.get("seeds", [0]), "`seeds`", NonNegativeInt, "whole numbers from 0"),
        seed_words=read_list(raw.get("seed_words", []), "`seed_words`", Option, "options, such as --data.seed", can_be_empty=True),
        variants=variants,
        remedies=remedies,
        alphas=alphas,
        alphas_of=alphas_of,
        methods=methods,
        paper={published_key(name): read_published(value, f"`paper.{name}`") for name, value in paper.items()},
        keep=keep,
    )


def refuse_equal(remedies: Mapping[str, Remedy], variants: Mapping[str | None, list[str]]) -> None:
    """Refuse two names for the same trials."""
    for (name, first), (other, second) in combinations(remedies.items(), 2):
        shared = [rate for rate in first.rates if rate in second.rates and set(first.variants).intersection(second.variants)]
        if first.words == second.words and shared:
            raise ValueError(
                f"`remedies`: `{name}` and `{other}` have the same words, and both the rate {rate_text(shared[0])}: their runs would be the same; "
                "correct the words of one, or leave it out."
            )
    for (variant, words), (another, its) in combinations(variants.items(), 2):
        if words == its:
            raise ValueError(f"`variants`: `{variant}` and `{another}` have the same words: their runs would be the same; correct one, or leave it out.")


def check_mapping(value: Any, where: str, known: Sequence[str] = ()) -> None:
    """Refuse anything but a mapping with at least one key, and keys other than the known ones."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where} must be a mapping with at least one key, got {value!r}.")
    if known and (unknown := [name for name in value if name not in known]):
        raise ValueError(f"{where}: there is no key `{unknown[0]}`; there are {', '.join(known)}.")


def read_list(values: Any, where: str, convert: Callable[[Any], Item], kind: str, can_be_empty: bool = False) -> list[Item]:
    """A list of different values, each converted."""
    try:
        items = [convert(value) for value in values] if isinstance(values, list) else None
    except (ValueError, TypeError):
        items = None
    if items is None or len(set(items)) < len(items) or not (items or can_be_empty):
        raise ValueError(f"{where} must be a list of different {kind}, got {values!r}.")
    return items


def read_words(words: Any, where: str) -> list[str]:
    """Words of a command line; true, null and numbers become what YAML would read again."""
    if not isinstance(words, list) or any(not isinstance(word, str | int | float | None) for word in words):
        raise ValueError(f"{where} must be a list of words, such as [-c, FILE, --key, value], dates in quotation marks, got {words!r}.")
    words = [word if isinstance(word, str) else json.dumps(word) for word in words]
    refuse_reserved(words, where)
    return words


def refuse_reserved(words: Sequence[str], where: str) -> None:
    """Refuse the options that a sweep sets itself."""
    if reserved := [option for word in words if (option := word.split("=")[0].replace(".init_args", "")) in RESERVED]:
        raise ValueError(f"{where}: `{reserved[0]}` is set by the sweep, {RESERVED[reserved[0]]}.")


def read_remedy(value: Any, rates: list[float], variants: list[str | None], where: str) -> Remedy:
    """A list of words, or a mapping of ``words``, the remedy's own ``rates`` and those of the variants that it is tried in."""
    if isinstance(value, dict):
        check_mapping(value, where, ("words", "rates", "variants"))
        rates = read_list(value["rates"], f"{where}: `rates`", Rate, "numbers above 0") if "rates" in value else rates
        named = read_list(value["variants"], f"{where}: `variants`", str, "variants") if "variants" in value else variants
        if unknown := [name for name in named if name not in variants]:
            known = f"there are {', '.join(map(str, variants))}" if None not in variants else "the space has none"
            raise ValueError(f"{where}: `variants`: there is no variant `{unknown[0]}`; {known}.")
        variants, value = list(named), value.get("words")
    if not rates:
        raise ValueError(f"{where} has no rates; give `rates` for all remedies, or for this one: {{words: [...], rates: [...]}}.")
    return Remedy(read_words(value, where), rates, variants)


def published_key(key: Any) -> str:
    """Normalizes the rate in a key: ``standard/0.000001`` is ``standard/1e-6``."""
    front, slash, rate = str(key).rpartition("/")
    try:
        return f"{front}{slash}{rate_text(Rate(rate))}"
    except ValueError:
        return str(key)


def read_published(value: Any, where: str) -> dict[str, float]:
    """The two scores of a published point."""
    check_mapping(value, where, ("domain", "general"))
    try:
        return {name: ClosedUnitInterval(value[name]) for name in ("domain", "general")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} must have the numbers `domain` and `general`, each in [0, 1], got {value}.") from error
