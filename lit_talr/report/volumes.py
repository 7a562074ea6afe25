"""The hypervolume of each remedy: how much of the plane of domain and general ability its points reach, from as many points each."""

from collections.abc import Sequence

import pandas as pd

from lit_talr.curriculum.token_groups import Row
from lit_talr.report.statistics import Point, hypervolume_of_size


def volume_rows(means: pd.DataFrame) -> list[Row]:
    """A row for each variant and remedy that was trained and has general scores.

    ``size`` is the least number of trained points (means over seeds) that any remedy of the variant has; where one has more, its hypervolume is the mean
    over subsets of that size. ``with_wise`` adds the interpolations of the subset's points, which cost no training; it is None where there are none.
    """
    shown = means[means["general"].notna()]
    rows = []
    for variant in dict.fromkeys(blank(value) for value in shown["variant"]):
        own = shown[[blank(value) == variant for value in shown["variant"]]]
        base = own[own["remedy"] == "base"]
        start = 0.0 if base.empty else float(base["domain"].iloc[0])  # without a base nothing is subtracted; the page says so
        trained = dict(iter(own[own["trained"]].groupby("remedy", sort=False)))
        size = min((len(group) for group in trained.values()), default=0)
        for remedy, group in trained.items():
            points = pairs(group)
            free = own[(own["remedy"] == "wise-ft") & (own["source"] == remedy)]
            wise = [[point, *pairs(free[free["rate"] == rate])] for point, rate in zip(points, group["rate"], strict=True)]
            rows.append(
                {
                    "variant": variant or None,
                    "remedy": remedy,
                    "size": size,
                    "points": len(points),
                    "free": len(free),
                    "start": None if base.empty else start,
                    "hypervolume": hypervolume_of_size([[point] for point in points], size, (start, 0.0)),
                    "with_wise": hypervolume_of_size(wise, size, (start, 0.0)) if len(free) else None,
                }
            )
    return rows


def pairs(table: pd.DataFrame) -> Sequence[Point]:
    return list(zip(table["domain"].astype(float), table["general"].astype(float), strict=True))


def blank(value: object) -> str:
    """A missing variant as an empty text."""
    return value if isinstance(value, str) else ""
