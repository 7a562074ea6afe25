"""Short runs as one table."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.diagnosis import capped_nll, collect
from lit_talr.curriculum.token_groups import write_table
from tests.diagnose.runs import token_rows, write_run
from tests.helpers.scores import write_values

ROWS = [*token_rows("probe", num_still=40), *token_rows("held_out")]


def with_bins(nll: float) -> list[dict[str, object]]:
    """Half of the unseen tokens in the first bin, half in the last."""
    bins = [{"group": "bin", "num_tokens": 50, "nll": 9.0}, {"group": "bin", "num_tokens": 0, "nll": None}, {"group": "bin", "num_tokens": 50, "nll": nll}]
    return [*ROWS, *({"set": "held_out", "epoch": 2, "threshold": 0.2, **row} for row in bins)]


def write_trial(folder: Path, remedy: str, seed: int = 0, finished: bool = True) -> None:
    loss = {"standard": "Standard", "talr": "TALR"}[remedy]
    write_run(folder, with_bins({"standard": 0.5, "talr": 0.1}[remedy]), loss)
    (folder / "trial.json").write_text(json.dumps({"remedy": remedy, "rate": 2e-3, "seed": seed, "variant": "words"}))
    if finished:
        write_values(folder, {"fit": {"drift/kl": 0.1}})


def test_each_finished_run_of_standard_is_a_row(tmp_path: Path) -> None:
    write_trial(tmp_path / "words-standard-s0", "standard")
    write_trial(tmp_path / "words-talr-s0", "talr")
    write_trial(tmp_path / "words-standard-s1", "standard", seed=1)
    write_trial(tmp_path / "words-standard-s2", "standard", seed=2, finished=False)
    (tmp_path / "words-base").mkdir()
    (tmp_path / "words-base" / "trial.json").write_text('{"remedy": "base"}')
    table = collect([tmp_path]).set_index("seed")
    assert list(table.index) == [0, 1] and set(table["variant"]) == {"words"}
    first = table.loc[0]
    assert (first["unseen_share"], first["trained_share"], first["unseen_still_base_nll"], first["helps"]) == (0.75, 0.1, 13.0, True)
    assert first["capped_nll_standard"] == pytest.approx((3 + 0.5) / 2) and first["capped_nll_talr"] == pytest.approx((3 + 0.1) / 2)
    assert pd.isna(table.loc[1, "capped_nll_talr"])
    table.to_parquet(tmp_path / "diagnoses.parquet")


def test_without_bins_there_is_no_capped_nll(tmp_path: Path) -> None:
    write_table(tmp_path / "token_probability.parquet", ROWS)
    assert pd.isna(capped_nll(tmp_path))
