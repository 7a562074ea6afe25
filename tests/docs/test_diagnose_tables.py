"""The tables of docs/diagnose.md on conditions made by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from docs.tables.diagnose import best_cut, best_general, diagnose_tables, matched_advantage, right_left_out, spearman

STANDARD = [(0.2, 0.9), (0.4, 0.8), (0.3, 0.5)]  # the last is beaten


def write_study(folder: Path, worth: dict[str, float]) -> None:
    """TALR minus Standard on the domain by condition; Standard at a second rate too."""
    means, pairs = [], []
    for variant, domain in worth.items():
        for remedy, rate, point in (("standard", 2e-3, (0.4, 0.7)), ("standard", 5e-4, (0.2, 0.9)), ("talr", 2e-3, (0.4 + domain, 0.75))):
            name = f"{variant} {remedy} {rate:g}"
            means.append({"point": name, "variant": variant, "remedy": remedy, "rate": rate, "domain": point[0], "general": point[1], "seeds": 3})
        pair = {"reference": f"{variant} standard 0.002", "point": f"{variant} talr 0.002"}
        pairs.append({**pair, "domain": domain, "domain_lower": domain - 0.05, "domain_upper": domain + 0.05})
    folder.mkdir(parents=True)
    pd.DataFrame(means).to_parquet(folder / "means.parquet")
    pd.DataFrame(pairs).to_parquet(folder / "pairs.parquet")


def write_diagnoses(folder: Path, shares: dict[str, float]) -> None:
    columns = {"unseen_num_hard": 300, "unseen_num_tokens": 1000, "unseen_start_temperature": 2.0, "unseen_temperature": 1.0, "unseen_nll": 2.0}
    columns |= {"unseen_still_base_nll": 12.0, "unseen_learned_base_nll": 8.0, "trained_share": 0.1, "capped_nll_standard": np.nan, "capped_nll_talr": np.nan}
    rows = [{"variant": name, "seed": seed, "unseen_share": share, **columns} for name, share in shares.items() for seed in (0, 1)]
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "diagnoses.parquet")


@pytest.mark.slow
def test_a_part_of_the_results_makes_a_part_of_the_tables(tmp_path: Path) -> None:
    empty = dict.fromkeys(("predictors", "fixed", "conditions"), "Nothing is measured yet.")
    assert diagnose_tables(tmp_path / "diagnose") == empty
    write_diagnoses(tmp_path / "diagnose", {"a": 0.8, "b": 0.7, "c": 0.5, "d": 0.2, "e": 0.65, "only short": 0.9})
    assert diagnose_tables(tmp_path / "diagnose") == empty
    write_study(tmp_path / "when_talr_helps", {"a": 0.2, "b": 0.1, "c": -0.1, "d": -0.2, "e": -0.01, "only study": 0.1})
    tables = diagnose_tables(tmp_path / "diagnose")
    assert "only" not in tables["conditions"] and tables["conditions"].splitlines()[2].startswith("| a | .800 | 12.0 / 8.0 | 1.00 | yes | +.200 [.150, .250] |")
    first, naive = tables["predictors"].splitlines()[2].split(" | "), tables["predictors"].splitlines()[6].split(" | ")
    assert first[1].startswith("+1.000 [") and first[-2:] == ["3 of 5", "3 of 4 |"] and naive[1] == "-"
    assert tables["fixed"].splitlines()[2:] == [
        "| all conditions | 4 of 5 | 4 of 5 | 2 of 5 | 3 of 5 |",
        "| those whose difference excludes 0 | 4 of 4 | 4 of 4 | 2 of 4 | 2 of 4 |",
    ]


def test_general_scores_are_matched_on_the_front() -> None:
    assert best_general(STANDARD, 0.3) == pytest.approx(0.85) and best_general(STANDARD, 0.1) == 0.9 and best_general(STANDARD, 0.4) == 0.8
    assert matched_advantage([(0.6, 0.7), (0.3, 0.9)], STANDARD) == pytest.approx(0.9 - 0.2 / 3 - 0.8)  # at .4
    assert matched_advantage([(0.3, 0.9)], STANDARD) == pytest.approx(0.05)
    assert matched_advantage(STANDARD, STANDARD) == 0


def test_spearman_is_pandas() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 20)).round(1)
    assert spearman(first, second) == pytest.approx(pd.DataFrame([first, second]).T.corr(method="spearman").iloc[0, 1])
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_the_cut_of_the_others_decides() -> None:
    values, helps = np.array([0.1, 0.2, 0.6, 0.7, 0.8]), np.array([False, False, True, True, True])
    assert best_cut(values, helps) == pytest.approx(0.4) and right_left_out(values, helps) == 5
    assert right_left_out(-values, helps) <= 3  # more must speak for TALR, so it can only answer the same everywhere
    assert best_cut(values, np.ones(5, dtype=bool)) < 0.1 and best_cut(values, np.zeros(5, dtype=bool)) > 0.8
