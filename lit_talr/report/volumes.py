"""The hypervolume of each remedy: the area of the plane of domain and general ability that its points reach, for the same number of points each."""

from collections.abc import Sequence

import pandas as pd

from lit_talr.report.runs import Row
from lit_talr.report.statistics import Point, hypervolume_of_size


def volume_rows(means: pd.DataFrame) -> list[Row]:
    """A row for each variant and remedy that was trained and has general scores.

    ``size`` is the least number of trained points (means over seeds) that any remedy of the variant has; where one has more, its hypervolume is the mean
    over subsets of that size. ``with_wise`` adds the interpolations of the subset's points, which cost no training; it is None where there are none.
    """
    rows = []
    for variant, points in by_variant(means[means["general"].notna()]).items():
        base = points[points["remedy"] == "base"]
        start = None if base.empty else float(base["domain"].iloc[0])
        reference = start or 0.0, 0.0  # without a base nothing is subtracted; the page says so
        trained = dict(iter(points[points["trained"]].groupby("remedy", sort=False)))
        size = min((len(group) for group in trained.values()), default=0)
        for remedy, group in trained.items():
            pairs = score_pairs(group)
            free = points[points["remedy"].isin(("wise-ft", "lines")) & (points["source"] == remedy)]
            with_free = [[pair, *score_pairs(free[free["rate"] == rate])] for pair, rate in zip(pairs, group["rate"], strict=True)]
            row: Row = {"variant": variant or None, "remedy": remedy, "size": size, "points": len(pairs), "free": len(free), "start": start}
            row["hypervolume"] = hypervolume_of_size([[pair] for pair in pairs], size, reference)
            row["with_wise"] = hypervolume_of_size(with_free, size, reference) if len(free) else None
            rows.append(row)
    return rows


def score_pairs(table: pd.DataFrame) -> Sequence[Point]:
    """Domain and general score of each row."""
    return list(zip(table["domain"].astype(float), table["general"].astype(float), strict=True))


def by_variant(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each variant, in the order of the table; a missing variant is an empty text."""
    return dict(iter(table.groupby(table["variant"].astype(object).fillna(""), sort=False)))
