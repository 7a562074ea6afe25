"""Run folders as `fit`, `test` and `sweep` leave them, made of random answers."""

import json
from collections.abc import Sequence
from itertools import pairwise
from math import exp, log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tests.helpers.scores import write_values

SUITES = ("arithmetic", "facts", "sorting")


def write_answers(folder: Path, name: str, correct: Sequence[Any], suites: Sequence[str] | None = None, left_out: Sequence[str] = ()) -> float:
    """Answers to a file; gives their mean over suites. Ids count within a suite; what is left out does not count in general scores."""
    by_suite = {suite: list(correct[number :: len(suites)]) for number, suite in enumerate(suites)} if suites else {"": list(correct)}
    lines = []
    for suite, right in by_suite.items():
        for index, value in enumerate(right):
            row = {
                "id": index,
                "row": None,
                "text": "an answer",
                "num_tokens": 2,
                "cut": False,
                "unanswered": False,
                "truth": "7",
                "extracted": "7",
                "correct": bool(value),
            }
            lines.append(json.dumps({"suite": suite, "counts": suite not in left_out, **row} if suites else row))
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    (folder / "answers" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return float(np.mean([np.mean(right) for right in by_suite.values()]))


def write_run(
    folder: Path,
    domain: Sequence[Any],
    general: Sequence[Any] | None = None,
    base_general: Sequence[Any] | None = None,
    fit: dict[str, float] | None = None,
    suites: Sequence[str] = SUITES,
    **trial: Any,
) -> Path:
    """A tested run; `trial` becomes its trial.json, without which there is none."""
    test = {"test/score": write_answers(folder, "test", domain)}
    if general is not None:
        test["general/mean"] = write_answers(folder, "general-test", general, suites)
        test |= {f"general/{suite}": float(np.mean(general[number :: len(suites)])) for number, suite in enumerate(suites)}
    if base_general is not None:
        test["general/drop"] = write_answers(folder, "general-base-test", base_general, suites) - test["general/mean"]
    metrics = {"test": test} if fit is None else {"fit": fit, "test": test}
    write_values(folder, metrics, step=(fit or {}).pop("step", 7))
    if trial:
        (folder / "trial.json").write_text(json.dumps(trial))
    return folder


def write_config(folder: Path, loss: dict[str, Any], adapter: dict[str, Any] | None = None, **data: Any) -> None:
    """The `config.yaml` of a fit, as far as a report reads it."""
    model = {"loss": loss, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-4}}, "adapter": adapter}
    config = {"seed_everything": 7, "model": model, "data": {"class_path": "lit_talr.lab.Clinic", "init_args": data}}
    (folder / "config.yaml").write_text("# lightning.pytorch==2.6.6\n" + yaml.safe_dump(config))


def write_tokens(folder: Path, epochs: int, rng: np.random.Generator, talr: bool = True) -> None:
    """Tokens that become easy, as `TokenProbability` writes them."""
    rows: list[dict[str, Any]] = []

    def add(epoch: int, of: str, group: str, lower: float | None, upper: float | None, count: int, probability: float, **more: Any) -> None:
        row = {"epoch": epoch, "threshold": 0.2, "set": of, "group": group, "lower": lower, "upper": upper, "num_tokens": count, "probability": probability}
        rows.append({**row, "nll": 1.0, "weight": None, "weighted_nll": None, "share_above": None, "share_at_floor": None, **more})

    edges = (0.0, 0.01, 0.05, 0.2, 0.5, 0.9, 1.0)
    for epoch in range(epochs + 1):
        easy = 1 - 0.5 * exp(-epoch / 2)
        for of in ("probe", "train") if epoch else ("probe",):
            more = {"weight": easy, "share_at_floor": 0.3 * exp(-epoch) if talr else None, **({"talr/temperature": 2 / (1 + epoch)} if talr else {})}
            add(epoch, of, "all", 0.0, 1.0, 4000, easy, share_above=easy, **(more if of == "train" else {}))
            for index, count in enumerate(rng.multinomial(4000, [(1 - easy) * 0.5, *[(1 - easy) * 0.5 / 18] * 18, easy])):
                add(epoch, of, "bin", index / 20, (index + 1) / 20, int(count), index / 20)
        for lower, upper in pairwise(edges):
            add(epoch, "probe", "cohort", lower, upper, 600, 1 - (1 - (lower + upper) / 2) * exp(-epoch / 3))
        add(epoch, "probe", "hardest", None, None, 1, 0.0, token="<b>")
    pd.DataFrame(rows).to_parquet(folder / "token_probability.parquet", index=False)


def write_sweep(
    out: Path,
    remedies: Sequence[str] = ("standard", "talr", "l2"),
    rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3),
    seeds: Sequence[int] = (0, 1),
    variants: Sequence[str | None] = ("cot", "label"),
    alphas: Sequence[float] = (0.3, 0.7),
    epochs: int = 5,
    items: int = 300,
) -> Path:
    """A sweep in which a larger rate learns more and forgets more, and l2 forgets less."""
    rng = np.random.default_rng(0)
    ease, general_ease = rng.random(items), rng.random(items)  # an item that is hard is hard for all

    def answers(level: float, of: np.ndarray) -> list[bool]:
        return [bool(value) for value in of + rng.normal(0, 0.15, items) < level]

    for variant in variants:
        front = f"{variant}-" if variant else ""
        start = answers(0.92, general_ease)
        base = f"{front}base"
        write_run(out / base, answers(0.06, ease), start, variant=variant, remedy="base", base=base, commands=["lit-talr test -c configs/base.yaml"])
        for remedy in remedies:
            for rate in rates:
                for seed in seeds:
                    step = (log10(rate) + 4) / 1.5 * (0.85 if remedy == "l2" else 1)
                    domain = min(0.92, 0.25 + 0.75 * step - (0.08 if remedy == "talr" else 0)) * (0.8 if variant == "label" else 1) + rng.normal(0, 0.02)
                    general = 0.9 - 0.75 * max(0, step) ** 2 * {"l2": 0.35, "talr": 0.85}.get(remedy, 1) + rng.normal(0, 0.02)
                    name = f"{front}{remedy}-{rate:.0e}-s{seed}".replace("e-0", "e-")
                    known = {"variant": variant, "rate": rate, "seed": seed, "base": base}
                    fitted = f"lit-talr fit -c configs/base.yaml -c configs/loss/{remedy}.yaml --model.optimizer.lr {rate:g} --seed_everything {seed}"
                    commands = [fitted, "lit-talr test -c config.yaml --ckpt_path last"]
                    paper = {"domain": domain - 0.03, "general": general + 0.03} if remedy == "standard" and rate == rates[0] else None
                    fit = {"val/nll": 1.5 - domain, "val/score": domain, "step": 200}
                    own = {**known, "remedy": remedy, "alpha": None, "of": None, "commands": commands, "paper": paper}
                    run = write_run(out / name, answers(domain, ease), answers(general, general_ease), start, fit, **own)
                    for epoch in range(epochs + 1):
                        part = 1 - exp(-1.2 * epoch)
                        write_answers(run, f"general-epoch-{epoch}", answers(0.92 + (general - 0.92) * part, general_ease), SUITES)
                        if epoch:
                            write_answers(run, f"val-epoch-{epoch}", answers(0.06 + (domain - 0.06) * part, ease))
                    write_tokens(run, epochs, rng, remedy == "talr")
                    for alpha in alphas if remedy == "standard" else ():
                        between = 0.92 + (general - 0.92) * alpha**2, 0.06 + (domain - 0.06) * alpha**1.5
                        wise = {**known, "remedy": "wise-ft", "source": remedy, "alpha": alpha, "of": name, "commands": ["lit-talr merge", "lit-talr test"]}
                        write_run(out / f"{name}-wise-{alpha:g}", answers(between[1], ease), answers(between[0], general_ease), start, **wise)
    (out / "sweep.json").write_text(json.dumps({"space": {}, "words": [], "failed": {}}))
    return out
