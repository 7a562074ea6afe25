"""The statistics of a report, as plain functions of numbers."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb, sqrt

import numpy as np

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % quantile of Student's t for 1, 2, ..., 30 degrees of freedom; for more, the last is used, which is at most 4 % too wide."""
Z_975 = 1.959964
"""The same quantile of the normal distribution."""
Interval = tuple[float, float]
Point = tuple[float, float]


def adjusted_mean(values: np.ndarray, groups: np.ndarray, least: float = 0.0) -> tuple[float, float]:
    """The mean over groups of each group's mean, and its standard error, after a few made-up items were added: without them all right would have no error.

    For m groups of n_j items each, with c = 2 for scores (values in [0, 1]) and c = 1 for differences of two scores (in [-1, 1])::

        a_j = c (1 / n_j) / (1 / n_1 + ... + 1 / n_m)    made-up items of the least value, and as many of the value 1
        N_j = n_j + 2 a_j                                items of group j, with mean M_j and variance V_j (divided by N_j)
        mean = (M_1 + ... + M_m) / m
        error^2 = (V_1 / D_1 + ... + V_m / D_m) / m^2,   D_j = min(N_j, N_j - 1 + 2 a_j)

    Source: for one share, "add two successes and two failures" by Agresti and Coull (1998); for one paired difference, Bonett and Price (2012); for shares of
    several groups, Price and Bonett (2004), who divide the made-up items equally. Here they are divided by 1 / n_j, since small groups have most of the error,
    and D_j tends to the usual N - 1 where a group gets few of them; both agree with the sources for one group. Values between the ends (means over runs) are
    taken as they are. docs/report.md has the coverage of the interval.

    Args:
        values: ``[num_items]``, each in [least, 1].
        groups: ``[num_items]``, the number of each item's group: 0 to m - 1, each at least once.
        least: The least value: 0 for scores, -1 for their differences.
    """
    shares = 1 / np.bincount(groups)
    means, squares = adjusted_groups(values, groups, least, 2 / (1 - least) * shares / shares.sum())
    return float(means.mean()), sqrt(squares.sum()) / len(shares)


def adjusted_groups(values: np.ndarray, groups: np.ndarray, least: float, added: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """The M_j of ``adjusted_mean`` and their squared errors V_j / D_j, for the a_j in ``added``."""
    sizes = np.bincount(groups)
    totals = sizes + 2 * added
    means = (np.bincount(groups, values) + added * (least + 1)) / totals
    variances = (np.bincount(groups, values**2) + added * (least**2 + 1)) / totals - means**2
    return means, variances / np.minimum(totals, totals - 1 + 2 * added)


def group_intervals(values: np.ndarray, groups: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper ends of each group's own ``mean_interval``, in which the group is the only one."""
    means, squares = adjusted_groups(values, groups, least, 2 / (1 - least))
    halves = Z_975 * np.sqrt(squares)
    return np.maximum(least, means - halves), np.minimum(1.0, means + halves)


def mean_interval(values: np.ndarray, groups: np.ndarray, least: float = 0.0) -> Interval:
    """The 95 % interval of the mean over groups of each group's mean: ``adjusted_mean`` plus and minus 1.96 errors, within the range of the values."""
    mean, error = adjusted_mean(values, groups, least)
    return max(least, mean - Z_975 * error), min(1.0, mean + Z_975 * error)


def wilson_interval(successes: int, number: int) -> Interval:
    """The 95 % interval of one share by Wilson (1927), for at least one independent item: its ends are the shares that lie 1.96 of their errors away."""
    share, squared = successes / number, Z_975**2
    centre = (share + squared / (2 * number)) / (1 + squared / number)
    half = Z_975 * sqrt(share * (1 - share) / number + squared / (4 * number**2)) / (1 + squared / number)
    return max(0.0, centre - half), min(1.0, centre + half)


def t_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean by Student's t; None for fewer than two values, which have no spread."""
    if len(values) < 2:
        return None
    half = T_975[min(len(values) - 1, len(T_975)) - 1] * standard_error(values)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of at least two values."""
    return float(np.std(values, ddof=1)) / sqrt(len(values))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other point dominates, by rising first coordinate; more is better in both."""
    order = sorted(range(len(points)), key=lambda index: points[index], reverse=True)
    front: list[int] = []
    for index in order:
        best = points[front[-1]] if front else None
        if best is None or points[index][1] > best[1] or points[index] == best:
            front.append(index)
    return front[::-1]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The area between the reference and the points that dominate it; more is better in both coordinates."""
    area, height = 0.0, reference[1]
    for first, second in sorted(points, reverse=True):
        if first > reference[0] and second > height:
            area += (first - reference[0]) * (second - height)
            height = second
    return area


def hypervolume_of_size(points: Sequence[Sequence[Point]], size: int, reference: Point, most_subsets: int = 1000, seed: int = 0) -> float:
    """The mean hypervolume of subsets of a size: of all subsets, or of random ones where there are more than ``most_subsets``.

    Args:
        points: For each member its own point and those that come free with it.
        size: Number of members of a subset.
        reference: The point without value.
        most_subsets: The largest number of subsets.
        seed: Seed of the random subsets.
    """
    areas = [hypervolume([point for index in subset for point in points[index]], reference) for subset in subsets(len(points), size, most_subsets, seed)]
    return float(np.mean(areas))


def subsets(number: int, size: int, most: int, seed: int) -> Iterator[Sequence[int]]:
    if comb(number, size) <= most:
        yield from combinations(range(number), size)
        return
    rng = np.random.default_rng(seed)
    for _ in range(most):
        yield rng.permutation(number)[:size].tolist()
