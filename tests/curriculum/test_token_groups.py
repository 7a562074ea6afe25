import math
from pathlib import Path

import pandas as pd
import torch

from lit_talr.curriculum.token_groups import FIELDS, bin_edges, bins, cohorts, group_rows, token_sums, write_table

NLL = -torch.tensor([[0.05, 0.95, 1.0, 0.2, 0.5], [0.1999, 0.25, 0.7, 0.9, 0.0]], dtype=torch.float64).log()
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1]]).bool()


def test_bins_hold_their_lower_bound_and_the_last_one_1() -> None:
    assert bins(NLL, 10).tolist() == [[0, 9, 9, 2, 5], [1, 2, 7, 9, 0]]
    assert bin_edges(4) == [0, 0.25, 0.5, 0.75, 1]


def test_cohorts_hold_their_lower_bound() -> None:
    nll = -torch.tensor([0.0, 0.125, 0.25, 0.49, 0.5, 1.0], dtype=torch.float64).log()
    assert cohorts(nll, [0.25, 0.5]).tolist() == [0, 0, 1, 1, 2, 2]


def test_sums_are_those_of_a_loop_over_supervised_tokens() -> None:
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[0, 0] = 0.01
    found = token_sums(bins(NLL, 4), 4, NLL, MASK, 0.2, weights, 0.01)
    expected = torch.zeros(4, len(FIELDS), dtype=torch.float64)
    for row, column in MASK.nonzero().tolist():
        nll, weight = float(NLL[row, column]), float(weights[row, column])
        probability = math.exp(-nll)
        group = min(3, int(probability * 4))
        values = [1, probability, nll, weight, weight * nll, probability > 0.2, weight <= 0.01]
        if math.isfinite(nll):
            expected[group] += torch.tensor([float(value) for value in values], dtype=torch.float64)
        else:
            expected[group, 2] = expected[group, 4] = math.inf
            expected[group, 0] += 1
            expected[group, 3] += weight
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert found[:, 0].sum() == MASK.sum()


def test_a_loss_that_is_not_a_number_is_counted_among_the_hardest() -> None:
    nll = torch.tensor([math.nan, 0.1])
    assert bins(nll, 20).tolist() == [0, 18]


def test_the_least_weight_is_met_in_float32() -> None:
    nll = torch.tensor([9.0, 0.1])
    sums = token_sums(bins(nll, 2), 2, nll, torch.ones(2).bool(), 0.2, (-nll).exp().clamp(min=0.01), 0.01)
    assert sums[:, FIELDS.index("share_at_floor")].tolist() == [1, 0]


def test_no_gradient_is_kept() -> None:
    nll = torch.ones(3, requires_grad=True)
    assert not token_sums(bins(nll, 2), 2, nll, torch.ones(3).bool(), 0.2, torch.ones(3, requires_grad=True)).requires_grad


def test_rows_are_means_and_none_where_nothing_is() -> None:
    sums = torch.tensor([[4.0, 1.0, 8.0, 2.0, 1.0, 3.0, 1.0], [0.0] * 7])
    full, empty = group_rows(sums, "bin", [0, 0.5, 1], weighted=True, floored=True)
    assert full == {
        "group": "bin",
        "lower": 0,
        "upper": 0.5,
        "num_tokens": 4,
        "probability": 0.25,
        "nll": 2.0,
        "weight": 0.5,
        "weighted_nll": 0.25,
        "share_above": 0.75,
        "share_at_floor": 0.25,
    }
    assert empty["num_tokens"] == 0 and empty["nll"] is None and empty["share_above"] is None
    plain = group_rows(sums, "bin", [0, 0.5, 1])[0]
    assert plain["weight"] is None and plain["share_at_floor"] is None


def test_the_table_is_read_back(tmp_path: Path) -> None:
    rows = [{"epoch": 0, **row} for row in group_rows(torch.ones(2, 7), "bin", [0, 0.5, 1])]
    write_table(tmp_path / "table.parquet", rows)
    assert pd.read_parquet(tmp_path / "table.parquet")["num_tokens"].tolist() == [1, 1]
