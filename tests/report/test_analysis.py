"""Matched scores, transitions and the curve over KL, against plain computations on random result tables."""

from itertools import pairwise
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lit_talr.report.analysis import analyse
from lit_talr.report.items import run_answers
from lit_talr.report.kl import fit_curve
from lit_talr.report.matched import SHARES, general_at
from lit_talr.report.statistics import mean_interval
from lit_talr.report.tables import Tables, frame
from lit_talr.report.transitions import by_guessing
from lit_talr.report.worlds import World, read_worlds, resampled_means

SUITES = {"free": 5, "choice": 7}
CHANCE = {"free": 0.0, "choice": 0.25, "": 0.0}
SAME = {"base_model": "b", "domain_items": "d", "general_items": "g"}
NONE = {"variant": None, "source": None, "alpha": None}


def made(rng: np.random.Generator, remedies: dict[str, list[float]], seeds: int, chance: dict[str, float] = CHANCE, items: int = 6) -> Tables:
    """The tables of a base model and of remedies at some rates, whose answers are drawn at random."""
    results, answers = [], []
    runs = [("base", None, None), *((remedy, rate, seed) for remedy, rates in remedies.items() for rate in rates for seed in range(seeds))]
    for remedy, rate, seed in runs:
        name, domain_level, general_level = f"{remedy}-{rate}-{seed}", (0.1 if remedy == "base" else rng.random()), rng.random()
        point = remedy if rate is None else f"{remedy} {rate:.0e}".replace("e-0", "e-")
        row: dict[str, Any] = {"name": name, "point": point, "remedy": remedy, "rate": rate, "seed": seed}
        parts = {"domain": {"": items}, "general": SUITES}
        for score, suites in parts.items():
            means = []
            for suite, number in suites.items():
                right = rng.random(number) < (domain_level if score == "domain" else general_level)
                means.append(right.mean())
                about = {"name": name, "score": score, "suite": suite, "truth": "7", "chance": chance[suite]}
                answers.append(pd.DataFrame({**about, "id": [f"{i:>12}" for i in range(number)], "correct": right}))
            row[score] = float(np.mean(means))
        results.append({**row, **SAME, **NONE, "trained": remedy != "base", "drift/kl": 0.0 if remedy == "base" else rng.exponential()})
    kinds = {"remedy": "first", "rate": "first", "trained": "first", "domain": "mean", "general": "mean"}
    means = pd.DataFrame(results).groupby("point", sort=False).agg(kinds).reset_index()
    rows = [{**row, **NONE} for row in means.to_dict("records")]
    empty = pd.DataFrame()
    return Tables(frame(results, list(results[0])), frame(rows, list(rows[0])), empty, empty, empty, empty, pd.concat(answers, ignore_index=True))


def correct(tables: Tables, name: str, score: str, suite: str) -> list[float]:
    own = tables.answers[(tables.answers["name"] == name) & (tables.answers["score"] == score) & (tables.answers["suite"] == suite)]
    return own["correct"].astype(float).tolist()


@pytest.mark.parametrize("tables", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_random_tables_against_plain_computations(tables: int) -> None:
    rng = np.random.default_rng(tables)
    for number in range(tables):
        drawn = made(rng, {"standard": [1e-4, 1e-3], "talr": [1e-4, 1e-3, 2e-3][: 1 + number % 3]}, seeds=1 + number % 2)
        analysis = analyse(drawn)
        check_matched(drawn, analysis.matched)
        check_transitions(drawn, analysis.transitions, analysis.changed_items)
        check_kl(drawn, analysis.kl, analysis.above_curve)


def check_matched(tables: Tables, matched: pd.DataFrame) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    base = tables.means.iloc[0]
    for row in tables.means.iloc[1:].sort_values("rate", kind="stable").itertuples():
        lines.setdefault(row.remedy, [(base["domain"], base["general"])]).append((row.domain, row.general))
    way = max(domain for domain, _ in lines["standard"][1:]) - base["domain"]
    assert len(matched) == (len(lines) * len(SHARES) if way > 0 else 0)
    for row in matched.itertuples():
        level = base["domain"] + row.share * way
        expected = plain_at(lines[row.line], level)
        assert row.level == pytest.approx(level) and row.reached == (expected is not None)
        assert (nan if expected is None else expected) == pytest.approx(row.general, nan_ok=True)
        if expected is not None:
            assert row.more == pytest.approx(expected - plain_at(lines["standard"], level))


def plain_at(line: list[tuple[float, float]], level: float) -> float | None:
    if line[0][0] >= level:
        return line[0][1]
    for (before, first), (after, second) in pairwise(line):
        if after >= level:
            return first + (level - before) / (after - before) * (second - first)
    return None


def check_transitions(tables: Tables, transitions: pd.DataFrame, changed: pd.DataFrame) -> None:
    number = 0
    for row in transitions.itertuples():
        names = tables.results.loc[tables.results["point"] == row.point, "name"].tolist()
        suites = [row.suite] if isinstance(row.suite, str) else ["", *SUITES][:1] if row.score == "domain" else [*SUITES]
        expected: dict[str, list[float]] = {"lost": [], "gained": [], "true_lost": [], "true_gained": []}
        for suite in suites:
            before = correct(tables, "base-None-None", row.score, suite)
            for name in names:
                pairs = list(zip(before, correct(tables, name, row.score, suite), strict=True))
                lost, gained = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
                number += lost + gained if row.suite == suite or row.score == "domain" else 0
                a, b = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
                guess = (1 - a) * (1 - b) / (1 / CHANCE[suite] - 1) if CHANCE[suite] else 0.0
                for kind, value in zip(expected, (lost / len(pairs), gained / len(pairs), lost / len(pairs) - guess, gained / len(pairs) - guess), strict=True):
                    expected[kind].append(value)
        for kind, values in expected.items():
            assert getattr(row, kind) == pytest.approx(np.mean(values), abs=1e-12)
            assert getattr(row, f"{kind}_lower") <= getattr(row, f"{kind}_upper")
    assert len(changed) == number and (changed["before"] != changed["after"]).all()


def check_kl(tables: Tables, kl: pd.DataFrame, above: pd.DataFrame) -> None:
    x = tables.results[tables.results["remedy"] != "base"].groupby("point", sort=False)["drift/kl"].mean()
    means = tables.means.set_index("point")
    if len(x) < 4:
        assert kl.empty and above.empty
        return
    drop = np.array([means["general"].iloc[0] - means.loc[point, "general"] for point in x.index])
    linear, quadratic = np.linalg.lstsq(np.stack([x, x**2], axis=1), drop, rcond=None)[0]
    fitted = linear * x + quadratic * x**2
    assert kl["point"].tolist() == x.index.tolist() and kl["fitted"].tolist() == pytest.approx(fitted.tolist())
    assert kl["r_squared"].iloc[0] == pytest.approx(1 - ((drop - fitted) ** 2).sum() / ((drop - drop.mean()) ** 2).sum())
    for row in above.itertuples():
        own = [point.startswith(row.remedy) for point in x.index]
        assert row.above == pytest.approx((fitted - drop)[own].mean()) and row.above_lower <= row.above_upper


def test_resampled_lines_are_those_of_single_ones() -> None:
    """Vectorised over lines, as one by one."""
    rng = np.random.default_rng(1)
    domain, general, level = rng.random((300, 4)), rng.random((300, 4)), rng.random(300)
    values, reached = general_at(domain, general, level)
    for line, value, there, at in zip(np.stack([domain, general], axis=2).tolist(), values, reached, level, strict=True):
        expected = plain_at([tuple(point) for point in line], at)  # type: ignore[misc]
        assert there == (expected is not None) and value == pytest.approx(max(line)[1] if expected is None else expected)


def test_means_over_resampled_items_are_paired() -> None:
    tables = made(np.random.default_rng(2), {"standard": [1e-3]}, seeds=1)
    answers = run_answers(tables.answers)
    (world,) = read_worlds(tables, answers)
    drawn = resampled_means([world.points[1].answers["general"], world.points[1].answers["general"]], "general")
    assert drawn is not None and drawn[0, 0] == pytest.approx(tables.means["general"][1]) and (drawn[:, 0] == drawn[:, 1]).all() and drawn[:, 0].std() > 0


def test_guessing_that_is_not_known_is_not_subtracted() -> None:
    tables = made(np.random.default_rng(3), {"standard": [1e-3]}, seeds=1, chance={**CHANCE, "choice": nan})
    transitions = analyse(tables).transitions.set_index("score")
    assert transitions.loc["general", "true_lost"].isna().all() and transitions.loc["domain", "true_lost"] == transitions.loc["domain", "lost"]


def test_models_that_only_guess_lose_nothing_beyond_chance() -> None:
    """Two models that know .3 and .2 of the items and guess the others: what is left are the items known by one alone."""
    rng = np.random.default_rng(4)
    known = [rng.random(200_000) < share for share in (0.3, 0.2)]
    before, after = ((own | (rng.random(200_000) < 0.25)).astype(float) for own in known)
    guessed = by_guessing(before, after, np.full(200_000, 1 / 3), np.zeros(200_000, int)).mean()
    only_base, neither = 0.3 * 0.8, 0.7 * 0.8
    assert guessed == pytest.approx(neither * 0.25 * 0.75, abs=0.002)
    assert (before * (1 - after)).mean() - guessed == pytest.approx(only_base * 0.75, abs=0.003)


def test_the_interval_of_what_guessing_leaves_covers() -> None:
    """100 items of four choices; the plain interval of the share that is left, with the spread of the share of guesses, covers 93 to 97 %."""
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(1500):
        before = (rng.random(100) < 0.5).astype(float)
        after = np.where(rng.random(100) < 0.7, before, rng.random(100) < 0.3).astype(float)
        values = before * (1 - after) - by_guessing(before, after, np.full(100, 1 / 3), np.zeros(100, int))
        lower, upper = mean_interval(values, np.zeros(100, int), -1.0)
        b = 0.7 * 0.5 + 0.3 * 0.3
        hits.append(lower <= 0.5 * 0.3 * 0.7 - 0.5 * (1 - b) / 3 <= upper)
    assert 0.93 <= np.mean(hits) <= 0.98


def test_the_curve_begins_at_the_base_model() -> None:
    kl = np.array([0.1, 0.5, 1.0, 2.0])
    assert fit_curve(kl, 0.3 * kl - 0.05 * kl**2) == pytest.approx([0.3, -0.05])


def simulated(rng: np.random.Generator, items: int) -> tuple[World, dict[str, list[tuple[float, float]]]]:
    """Two remedies at three rates, with items of different difficulty that all points share; and their true lines."""
    truth = {"base": (0.1, 0.9), "standard 1e-4": (0.3, 0.85), "standard 1e-3": (0.5, 0.75), "standard 2e-3": (0.65, 0.55)}
    truth |= {"talr 1e-4": (0.25, 0.88), "talr 1e-3": (0.45, 0.8), "talr 2e-3": (0.6, 0.7)}
    results, answers = [], []
    ease = {"domain": rng.normal(size=items), "general": rng.normal(size=items)}
    for name, levels in truth.items():
        remedy, _, rate = name.partition(" ")
        row: dict[str, Any] = {"name": name, "point": name, "remedy": remedy, "rate": float(rate) if rate else None, **NONE}
        for score, level in zip(("domain", "general"), levels, strict=True):
            noise = 0.6 * ease[score] + 0.8 * rng.normal(size=items)
            right = noise < normal_quantile(level)
            row[score] = float(right.mean())
            about = {"name": name, "score": score, "suite": "", "truth": "7", "chance": 0.0}
            answers.append(pd.DataFrame({**about, "id": np.arange(items).astype(str), "correct": right}))
        results.append({**row, **SAME, "trained": remedy != "base"})
    table = frame(results, list(results[0]))
    empty = pd.DataFrame()
    tables = Tables(table, table, empty, empty, empty, empty, pd.concat(answers, ignore_index=True))
    (world,) = read_worlds(tables, run_answers(tables.answers))
    lines = {remedy: [truth["base"], *(point for name, point in truth.items() if name.startswith(remedy))] for remedy in ("standard", "talr")}
    return world, lines


def normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


@pytest.mark.slow
@pytest.mark.parametrize(("items", "least"), [(50, 0.90), (200, 0.92)])
def test_coverage_of_the_matched_score(items: int, least: float) -> None:
    """The true lines are those through the true scores; the level is the measured one, as in a report."""
    from lit_talr.report.matched import matched_rows

    rng = np.random.default_rng(items)
    hits: dict[tuple[str, float], list[bool]] = {}
    for _ in range(400):
        world, lines = simulated(rng, items)
        for row in matched_rows(world):
            true = {name: plain_at(line, row["level"]) for name, line in lines.items()}
            if row["reached"] and None not in true.values():
                hits.setdefault((f"general of {row['line']}", row["share"]), []).append(row["general_lower"] <= true[row["line"]] <= row["general_upper"])
                if row["line"] != "standard":
                    hits.setdefault(("more", row["share"]), []).append(row["more_lower"] <= true["talr"] - true["standard"] <= row["more_upper"])
    covered = {key: float(np.mean(each)) for key, each in hits.items() if len(each) > 100}
    assert all(least <= value for value in covered.values()), covered
