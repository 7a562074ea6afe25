import torch

from lit_talr.curriculum.board import chart_layout, epoch_scalars
from lit_talr.curriculum.token_groups import bin_rows, group_rows

SUMS = torch.tensor([[4.0, 1.0, 8.0, 2.0, 1.0, 3.0, 1.0], [0.0] * 7])


def test_scalars_are_the_rows_of_all_tokens_and_of_cohorts_that_have_any() -> None:
    rows = [{"set": "probe", **row} for row in [*bin_rows(SUMS), *group_rows(SUMS, "cohort", [0, 0.5, 1])]]
    rows += [{"set": "train", **row} for row in bin_rows(SUMS, weighted=True)]
    assert epoch_scalars(rows, 0.2) == {
        "probe/share_above_0.2": 0.75,
        "probe/nll": 2.0,
        "cohort/0-0.5": 0.25,
        "train/share_above_0.2": 0.75,
        "train/epoch_nll": 2.0,
        "train/mean_weight": 0.5,
    }


def test_charts_name_the_scalars() -> None:
    charts = chart_layout(["0-0.5", "0.5-1"], 0.2)["Curriculum"]
    assert ["Multiline", ["cohort/0-0.5", "cohort/0.5-1"]] in charts.values()
    assert charts["tokens with p > 0.2"] == ["Multiline", ["train/share_above_0.2", "probe/share_above_0.2"]]
