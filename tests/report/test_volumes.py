import pandas as pd
import pytest

from lit_talr.report.volumes import volume_rows

COLUMNS = ("variant", "remedy", "source", "rate", "alpha", "trained", "domain", "general")


def test_each_remedy_is_given_as_many_points_as_the_poorest_has() -> None:
    rows = [
        (None, "base", None, None, None, False, 0.1, 0.9),
        (None, "standard", None, 1e-4, None, True, 0.5, 0.8),
        (None, "standard", None, 1e-3, None, True, 0.9, 0.4),
        (None, "talr", None, 1e-3, None, True, 0.6, 0.5),
        (None, "dft", None, 1e-3, None, True, 0.9, None),  # without general scores it is not counted
        (None, "wise-ft", "standard", 1e-3, 0.5, False, 0.7, 0.7),
    ]
    standard, talr = volume_rows(pd.DataFrame(rows, columns=COLUMNS))
    assert (standard["remedy"], standard["size"], standard["points"], standard["free"]) == ("standard", 1, 2, 1)
    assert standard["hypervolume"] == pytest.approx((0.4 * 0.8 + 0.8 * 0.4) / 2)
    assert standard["with_wise"] == pytest.approx((0.4 * 0.8 + 0.8 * 0.4 + 0.6 * 0.3) / 2)
    assert talr["hypervolume"] == pytest.approx(0.5 * 0.5) and talr["with_wise"] is None


def test_without_a_base_the_domain_score_counts_from_0() -> None:
    (row,) = volume_rows(pd.DataFrame([("cot", "talr", None, 1e-3, None, True, 0.6, 0.5)], columns=COLUMNS))
    assert row["start"] is None and row["hypervolume"] == pytest.approx(0.3) and row["variant"] == "cot"
    assert volume_rows(pd.DataFrame([], columns=COLUMNS).astype({"trained": bool})) == []
