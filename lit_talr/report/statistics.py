"""The statistics of a report, as plain functions of numbers."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb, sqrt

import numpy as np

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % quantile of Student's t for 1, 2, ..., 30 degrees of freedom; for more, the last is used, which is at most 4 % too wide."""
RESAMPLES = 2000
Interval = tuple[float, float]
Point = tuple[float, float]


@lru_cache(maxsize=32)
def resampled(num_items: int, group: int, seed: int) -> np.ndarray:
    """``[RESAMPLES, num_items]`` indices drawn with replacement: the same for all samples of equal size in the same group, which pairs them."""
    return np.random.default_rng([seed, group]).integers(0, num_items, (RESAMPLES, num_items), dtype=np.int32)


def bootstrap_means(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """``[RESAMPLES]`` means over groups of each group's mean, with items drawn anew with replacement, within their groups.

    Two calls for the same items use the same draws, so the difference of their results is a paired bootstrap of the difference.

    Args:
        values: ``[num_items]``.
        groups: ``[num_items]``, the number of each item's group.
        seed: Seed of the draws.
    """
    parts = [values[groups == group] for group in np.unique(groups)]
    return np.mean([part[resampled(len(part), number, seed)].mean(axis=1) for number, part in enumerate(parts)], axis=0)


def interval(draws: np.ndarray) -> Interval:
    """The middle 95 % of bootstrap draws."""
    lower, upper = np.quantile(draws, (0.025, 0.975))
    return float(lower), float(upper)


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
