"""The points of a space: their names, and the commands that make them."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lit_talr.sweep.identity import configuration_key
from lit_talr.sweep.space import BASE, MERGES, Space, rate_text
from lit_talr.utils.score import DIGITS, digest

Parse = Callable[[Sequence[str]], Namespace]
"""Gives the configuration that ``fit`` reads from its words, and refuses what ``fit`` would refuse."""
Configs = dict[tuple[str | None, str], Namespace]
"""The configuration of each variant and remedy."""


@dataclass(frozen=True)
class Point:
    """A run folder of a sweep: a trial, a base model, or weights merged of the two (Wise-FT, LiNeS)."""

    name: str
    variant: str | None
    remedy: str
    rate: float | None
    seed: int | None
    base: str  # name of the base model's run
    commands: list[list[str]]  # without the program
    key: str  # identifies its configuration
    alpha: float | None = None
    of: str | None = None  # for a merge: name of the trial, and
    source: str | None = None  # its remedy
    paper: dict[str, float] | None = None

    @property
    def is_trial(self) -> bool:
        return self.remedy not in (BASE, *MERGES.values())

    def lines(self) -> list[str]:
        """Its commands as they can be typed."""
        return [shlex.join(["lit-talr", *words]) for words in self.commands]

    def record(self) -> dict[str, Any]:
        """The content of ``trial.json``."""
        return {**{name: value for name, value in asdict(self).items() if name != "name"}, "commands": self.lines()}

    def published_key(self) -> str:
        """The key of its published scores in ``paper``."""
        return join(self.variant, self.remedy, None if self.rate is None else rate_text(self.rate), by="/")


def parse_configs(space: Space, common: Sequence[str], parse: Parse) -> Configs:
    """Parse the words of each variant and remedy before any of them is run; refuses what ``fit`` would refuse."""
    configs: Configs = {}
    for (variant, words), (name, remedy) in product(space.variants.items(), space.remedies.items()):
        if variant not in remedy.variants:
            continue
        try:
            configs[variant, name] = parse([*common, *words, *remedy.words, *seeding(space, space.seeds[0])])
        except ValueError as error:
            raise ValueError(f"{join(variant, name)}: {error}") from error
    return configs


def seeding(space: Space, seed: int) -> list[str]:
    """The words that give a trial its seed."""
    return [word for option in ("--seed_everything", *space.seed_words) for word in (option, str(seed))]


def list_points(space: Space, common: Sequence[str], extra: Sequence[str], out: Path, configs: Configs) -> list[Point]:
    """List the base models, then the trials, each followed by its merges; seed by seed, so that a part of the sweep is a picture too.

    Args:
        space: What is swept over.
        common: Words of every fit and test.
        extra: Further words of every fit.
        out: Folder of the runs.
        configs: From ``parse_configs``.

    Raises:
        ValueError: For two points of one name, for merges without a base model, and for published scores of no point.
    """
    points = []
    for variant, words in space.variants.items():
        first = next(remedy.words for remedy in space.remedies.values() if variant in remedy.variants)
        name = join(variant, BASE)
        test = ["test", *common, *words, *first]
        points.append(Point(name, variant, BASE, None, None, name, [[*test, "--run", str(out / name)]], configuration_key(test)))
    for seed, (variant, words), (name, remedy) in product(space.seeds, space.variants.items(), space.remedies.items()):
        if variant not in remedy.variants:
            continue
        alphas = space.alphas if name in space.alphas_of else []
        base_model = find_base_model(configs[variant, name]) if alphas else ""
        for rate in remedy.rates:
            fit_words = [*common, *words, *remedy.words, "--model.optimizer.lr", rate_text(rate)]
            fit_words += seeding(space, seed)
            trial = trial_point(variant, name, rate, seed, [*fit_words, *extra], out)
            points += [trial, *(merged_point(trial, method, alpha, base_model, out) for method, alpha in product(space.methods, alphas))]
    if repeated := [name for name, count in Counter(point.name for point in points).items() if count > 1]:
        raise ValueError(f"the space has two points of the name `{repeated[0]}`; name its variants and remedies so that joined by `-` they differ.")
    keys = {point.published_key() for point in points}
    if unknown := [key for key in space.paper if key not in keys]:
        raise ValueError(f"`paper`: there is no point `{unknown[0]}` in the space; there are {', '.join(sorted(keys))}.")
    return [replace(point, paper=space.paper.get(point.published_key())) for point in points]


def trial_point(variant: str | None, remedy: str, rate: float, seed: int, words: Sequence[str], out: Path) -> Point:
    name = join(variant, remedy, rate_text(rate), f"s{seed}")
    test = ["test", "-c", str(out / name / "config.yaml"), "--ckpt_path", "last"]
    fit = ["fit", *words]
    return Point(name, variant, remedy, rate, seed, join(variant, BASE), [[*fit, "--run", str(out / name)], test], configuration_key(fit))


def merged_point(trial: Point, method: str, alpha: float, base_model: str, out: Path) -> Point:
    name = f"{trial.name}-{MERGES[method].removesuffix('-ft')}-{alpha:g}"
    merged = str(out / name / "merged")
    merge = ["merge", "--base", base_model, "--tuned", str(out / trial.name / "export"), "--alpha", f"{alpha:g}"]
    merge += [*([] if method == "linear" else ["--method", method]), "--out", merged]
    model = ["--model.pretrained", merged, "--model.tokenizer", "null", "--model.adapter", "null"]  # the export has the tokenizer and merged adapters
    test = ["test", "-c", str(out / trial.name / "config.yaml"), *model, "--run", str(out / name)]
    key = digest(trial.key, alpha, *([] if method == "linear" else [method]))[:DIGITS]
    return Point(name, trial.variant, MERGES[method], trial.rate, trial.seed, trial.base, [merge, test], key, alpha, trial.name, trial.remedy)


def join(*parts: str | None, by: str = "-") -> str:
    return by.join(part for part in parts if part)


def find_base_model(config: Namespace) -> str:
    """The base model that ``merge`` interpolates with; refuses a revision, which ``merge`` does not take."""
    if config.model.pretrained is None:
        raise ValueError("`alphas`: a merge interpolates with the base model, and none is named; give `--model.pretrained`, or leave `alphas` out.")
    if config.model.revision is not None:
        raise ValueError("`alphas`: a merge does not know `model.revision`; give `--model.pretrained` a folder that holds it, or leave `alphas` out.")
    return config.model.pretrained
