"""The points of a space: their names, and the commands that make them."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lit_talr.sweep.space import BASE, WISE, Space, rate_text

Resolve = Callable[[Sequence[str]], list[str]]
"""Gives words with each ``-c FILE`` as a file that exists."""


@dataclass(frozen=True)
class Point:
    """A run folder of a sweep: a trial, a starting model, or weights between the two."""

    name: str
    variant: str | None
    remedy: str
    rate: float | None
    seed: int | None
    base: str  # the name of the starting model's run
    commands: list[list[str]]  # without the program
    alpha: float | None = None
    of: str | None = None  # of a point of Wise-FT the trial that it interpolates, and
    source: str | None = None  # the trial's remedy
    paper: dict[str, float] | None = None

    def lines(self) -> list[str]:
        """Its commands as they can be typed."""
        return [shlex.join(["lit-talr", *words]) for words in self.commands]

    def record(self) -> dict[str, Any]:
        """What ``trial.json`` holds."""
        return {**{name: value for name, value in asdict(self).items() if name != "name"}, "commands": self.lines()}


def points(space: Space, common: Sequence[str], extra: Sequence[str], out: Path, resolve: Resolve) -> list[Point]:
    """All points: the starting models, then the trials, each followed by its points of Wise-FT; a seed after the other, so that a part is a picture too.

    Args:
        space: What is swept over.
        common: Words of every fit and test.
        extra: Further words of every fit.
        out: Folder of the runs.
        resolve: Finds the files that are named with ``-c``.

    Raises:
        ValueError: For a file that is missing, for two points of one name, for Wise-FT without a starting model, and for published numbers of no point.
    """
    first = next(iter(space.remedies.values())).words
    found = []
    bases: dict[tuple[str | None, str], str] = {}  # the starting models of remedies that Wise-FT interpolates
    for variant, words in space.variants.items():
        name = join(variant, BASE)
        found.append(Point(name, variant, BASE, None, None, name, [["test", *common, *words, *first, "--run", str(out / name)]]))
        for each, remedy in space.remedies.items():
            resolved = resolve([*common, *words, *remedy.words])
            if space.alphas and each in space.alphas_of:
                bases[variant, each] = base_model(resolved)
    for seed in space.seeds:
        for variant, words in space.variants.items():
            for name, remedy in space.remedies.items():
                for rate in remedy.rates:
                    trial = fitted_point(space, [*common, *words, *remedy.words], extra, out, variant, name, rate, seed)
                    found.append(trial)
                    if (variant, name) in bases:
                        found += wise_points(space, trial, bases[variant, name], out)
    if twice := [name for name, count in Counter(point.name for point in found).items() if count > 1]:
        raise ValueError(f"the space has two points of the name `{twice[0]}`; name its variants and remedies so that joined by `-` they differ.")
    keys = {key(point) for point in found}
    if unknown := [name for name in space.paper if name not in keys]:
        raise ValueError(f"`paper`: there is no point `{unknown[0]}` in the space; there are {', '.join(sorted(keys))}.")
    return [replace(point, paper=space.paper.get(key(point))) for point in found]


def fitted_point(space: Space, words: list[str], extra: Sequence[str], out: Path, variant: str | None, remedy: str, rate: float, seed: int) -> Point:
    name = join(variant, remedy, rate_text(rate), f"s{seed}")
    seeds = [word for option in ("--seed_everything", *space.seed_words) for word in (option, str(seed))]
    fit = ["fit", *words, "--model.optimizer.lr", rate_text(rate), *seeds, *extra, "--run", str(out / name)]
    test = ["test", "-c", str(out / name / "config.yaml"), "--ckpt_path", "last"]
    return Point(name, variant, remedy, rate, seed, join(variant, BASE), [fit, test])


def wise_points(space: Space, trial: Point, base: str, out: Path) -> Iterator[Point]:
    for alpha in space.alphas:
        name = f"{trial.name}-wise-{alpha:g}"
        merged = str(out / name / "merged")
        merge = ["merge", "--base", base, "--tuned", str(out / trial.name / "export"), "--alpha", f"{alpha:g}", "--out", merged]
        own = ["--model.pretrained", merged, "--model.tokenizer", "null", "--model.lora", "null"]  # the trial's tokenizer and merged adapters are in the export
        test = ["test", "-c", str(out / trial.name / "config.yaml"), *own, "--run", str(out / name)]
        yield Point(name, trial.variant, WISE, trial.rate, trial.seed, trial.base, [merge, test], alpha, trial.name, trial.remedy)


def join(*parts: str | None, by: str = "-") -> str:
    return by.join(part for part in parts if part)


def key(point: Point) -> str:
    """What published numbers of it are listed under."""
    return join(point.variant, point.remedy, None if point.rate is None else rate_text(point.rate), by="/")


def base_model(words: Sequence[str]) -> str:
    """What ``model.pretrained`` is in the end, options and files in their order.

    Raises:
        ValueError: Where there is none, or a revision of one, which ``merge`` does not take.
    """
    chosen: dict[str, str | None] = {"pretrained": None, "revision": None}
    for flag, value in pairwise([*words, ""]):
        if flag in ("-c", "--config"):
            try:
                config = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise ValueError(f"{value}: is not YAML ({error}).") from error
            model = (config.get("model") or {}) if isinstance(config, dict) else {}
            chosen |= {name: model[name] for name in chosen if name in model}
        for name in chosen:
            if flag.split("=")[0] == f"--model.{name}":
                given = flag.split("=", 1)[1] if "=" in flag else value
                chosen[name] = None if given == "null" else given
    if chosen["pretrained"] is None:
        raise ValueError("`alphas`: Wise-FT interpolates with the starting model, and none is named; give `--model.pretrained`, or leave `alphas` out.")
    if chosen["revision"] is not None:
        raise ValueError("`alphas`: Wise-FT does not know `model.revision`; give `--model.pretrained` a folder that holds it, or leave `alphas` out.")
    return chosen["pretrained"]


def mentions(resolved: Sequence[str], name: str) -> bool:
    """Whether a class is named in words or in their files."""
    files = [value for flag, value in pairwise(resolved) if flag in ("-c", "--config")]
    return any(name in text for text in [*resolved, *(Path(file).read_text(encoding="utf-8") for file in files)])
