import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_talr.report.statistics import (
    T_975,
    Z_975,
    adjusted_mean,
    group_intervals,
    hypervolume,
    hypervolume_of_size,
    mean_interval,
    pareto_front,
    standard_error,
    t_interval,
    wilson_interval,
)

TENTHS = st.integers(0, 10).map(lambda value: value / 10)
POINTS = st.lists(st.tuples(TENTHS, TENTHS), max_size=8)  # few values, so that ties are common


@given(POINTS)
def test_the_front_is_what_no_other_point_beats(points: list[tuple[float, float]]) -> None:
    def beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    front = pareto_front(points)
    assert sorted(front) == [index for index, point in enumerate(points) if not beaten(point)]
    assert [points[index][0] for index in front] == sorted(points[index][0] for index in front)


@given(POINTS, TENTHS, TENTHS)
def test_the_hypervolume_is_the_number_of_cells_that_some_point_covers(points: list[tuple[float, float]], first: float, second: float) -> None:
    centres = np.arange(10) / 10 + 0.05
    cells = sum(x > first and y > second and any(x < px and y < py for px, py in points) for x in centres for y in centres)
    assert hypervolume(points, (first, second)) == pytest.approx(cells / 100)


def test_the_hypervolume_by_hand() -> None:
    points = [(0.9, 0.2), (0.5, 0.8), (0.4, 0.3), (0.05, 1.0)]
    assert hypervolume(points, (0.1, 0.0)) == pytest.approx(0.8 * 0.2 + 0.4 * 0.6)
    assert hypervolume([], (0.0, 0.0)) == 0


def test_of_a_size_it_is_the_mean_over_all_subsets_with_what_comes_free() -> None:
    points = [[(0.2, 0.9)], [(0.5, 0.5), (0.3, 0.8)], [(0.8, 0.1)]]
    found = [hypervolume([*first, *second], (0.0, 0.0)) for first, second in combinations(points, 2)]
    assert hypervolume_of_size(points, 2, (0.0, 0.0)) == pytest.approx(np.mean(found))
    assert hypervolume_of_size(points, 3, (0.0, 0.0)) == pytest.approx(hypervolume([point for each in points for point in each], (0.0, 0.0)))


def test_of_many_subsets_random_ones_stand_for_all() -> None:
    rng = np.random.default_rng(1)
    points = [[(float(x), float(y))] for x, y in rng.random((12, 2))]
    exact = hypervolume_of_size(points, 4, (0.0, 0.0))
    drawn = hypervolume_of_size(points, 4, (0.0, 0.0), most_subsets=300)
    assert drawn == hypervolume_of_size(points, 4, (0.0, 0.0), most_subsets=300) != exact
    assert drawn == pytest.approx(exact, abs=0.03)


def test_each_groups_interval_is_that_of_its_items_alone() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.integers(-1, 2, 60).astype(float), rng.permutation(np.repeat([0, 1, 2], [7, 20, 33]))
    ends = np.transpose(group_intervals(values, groups, -1.0))
    assert ends.tolist() == [list(mean_interval(*one_group(*values[groups == group]), -1.0)) for group in range(3)]


def one_group(*values: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array(values, dtype=float), np.zeros(len(values), dtype=int)


def test_one_share_is_agresti_and_coulls_with_two_more_right_and_two_more_wrong() -> None:
    lower, upper = mean_interval(*one_group(*[1] * 7, *[0] * 13))
    half = 1.959964 * (9 / 24 * 15 / 24 / 24) ** 0.5
    assert (lower, upper) == pytest.approx((9 / 24 - half, 9 / 24 + half))
    assert mean_interval(*one_group(*[0] * 60)) == (0, pytest.approx(2 / 64 + 1.959964 * (2 / 64 * 62 / 64 / 64) ** 0.5))
    assert mean_interval(*one_group(1)) == (pytest.approx(3 / 5 - 1.959964 * (3 / 5 * 2 / 5 / 5) ** 0.5), 1)


def test_one_paired_difference_is_bonett_and_prices() -> None:
    """Of 50 items 5 were gained and 1 was lost; they add one pair of each kind to these, and two to all."""
    gained, lost = 6 / 52, 2 / 52
    half = 1.959964 * ((gained + lost - (gained - lost) ** 2) / 52) ** 0.5
    values, groups = one_group(*[1] * 5, -1, *[0] * 44)
    assert mean_interval(values, groups, least=-1) == pytest.approx((gained - lost - half, gained - lost + half))
    same = 1.959964 * (2 / 52 / 52) ** 0.5
    assert mean_interval(0 * values, groups, least=-1) == pytest.approx((-same, same))


def test_groups_of_equal_size_are_price_and_bonetts() -> None:
    """Two groups of three items, with one more right and one more wrong each."""
    mean, error = adjusted_mean(np.array([1.0, 1, 1, 0, 1, 0]), np.repeat([0, 1], 3))
    assert mean == pytest.approx((4 / 5 + 2 / 5) / 2) and error == pytest.approx(((4 / 25 + 6 / 25) / 5) ** 0.5 / 2)


def test_a_small_group_gets_more_of_what_is_added_and_n_minus_1_returns_where_there_is_little_of_it() -> None:
    mean, error = adjusted_mean(np.array([1.0, 0, 0, 0]), np.array([0, 1, 1, 1]))  # 1.5 more right, and as many wrong, in the first; 0.5 in the second
    assert mean == pytest.approx((2.5 / 4 + 0.5 / 4) / 2) and error == pytest.approx(((2.5 * 1.5 + 0.5 * 3.5) / 16 / 4) ** 0.5 / 2)
    _, error = adjusted_mean(np.tile([1.0, 0, 0, 0, 0], 8), np.repeat(np.arange(8), 5))  # 0.25 more right in each: 5.5 items, divided by 5
    assert error == pytest.approx((1.25 * 4.25 / 5.5**2 / 5 / 8) ** 0.5)


@given(st.lists(st.lists(st.integers(-4, 4).map(lambda value: value / 4), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_interval_has_the_mean_inside_and_turns_with_the_sign(values: list[list[float]]) -> None:
    flat, groups = np.concatenate(values), np.repeat(np.arange(len(values)), [*map(len, values)])
    lower, upper = mean_interval(flat, groups, least=-1)
    assert -1 <= lower < upper <= 1 and lower - 1e-9 <= np.mean([np.mean(group) for group in values]) <= upper + 1e-9
    assert mean_interval(-flat, groups, least=-1) == pytest.approx((-upper, -lower))
    scores = (flat + 1) / 2
    lower, upper = mean_interval(scores, groups)
    assert 0 <= lower < upper <= 1 and lower - 1e-9 <= np.mean([(np.mean(group) + 1) / 2 for group in values]) <= upper + 1e-9
    assert mean_interval(1 - scores, groups) == pytest.approx((1 - upper, 1 - lower))


def test_runs_that_agree_on_every_item_count_as_one_and_others_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    runs, groups = (rng.random((3, 90)) < 0.6).astype(float), np.repeat([0, 1, 2], 30)
    assert mean_interval(np.mean([runs[0]] * 3, axis=0), groups) == pytest.approx(mean_interval(runs[0], groups))
    assert adjusted_mean(runs.mean(axis=0), groups)[1] < 0.7 * adjusted_mean(runs[0], groups)[1]


def share_coverage(number: int) -> tuple[float, float]:
    """Mean and least coverage of the interval of a share, by the exact sum; the mean over shares from .0005 to .5 (the other half is its mirror image).

    It is least next to the ends of an interval, so these are looked at as well.
    """
    lower, upper = np.transpose([mean_interval(*one_group(*[1] * right, *[0] * (number - right))) for right in range(number + 1)])
    even = np.linspace(0.0005, 0.5, 1000)
    ends = np.concatenate([lower, upper])
    ends = ends[(ends > 1e-6) & (ends < 0.5)]
    shares = np.concatenate([even, ends - 1e-9, ends + 1e-9])
    right, log_factorials = np.arange(number + 1)[:, None], np.cumsum(np.log(np.maximum(1, np.arange(number + 1))))
    chances = log_factorials[-1] - log_factorials - log_factorials[::-1]
    chances = np.exp(chances[:, None] + right * np.log(shares) + (number - right) * np.log1p(-shares))
    covered = np.sum(chances * ((lower[:, None] <= shares) & (shares <= upper[:, None])), axis=0)
    return covered[: len(even)].mean(), covered.min()


def coverage(shares: np.ndarray, sizes: Sequence[int], lost: float | None = None, samples: int = 10_000) -> float:
    """How often the interval of the mean over suites has the true mean inside, in a simulation.

    Args:
        shares: ``[samples or 1, suites]``, the chance that an item is right; of pairs that it is gained.
        sizes: The items of each suite.
        lost: Of pairs, the chance that an item is lost.
        samples: Number of samples.
    """
    groups = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.random.default_rng(0).random((samples, len(groups)))
    values = (chance < shares[:, groups]).astype(float) - (chance > 1 - (lost or 0))
    truth = np.broadcast_to(shares.mean(axis=1) - (lost or 0), samples)
    intervals = [mean_interval(value, groups, least=0 if lost is None else -1) for value in values]
    return float(np.mean([lower <= true <= upper for (lower, upper), true in zip(intervals, truth, strict=True)]))


def test_a_share_is_covered() -> None:
    for number in (20, 21, 50, 133):
        mean, least = share_coverage(number)
        assert 0.95 <= mean <= 0.965 and least >= 0.92


def test_suites_and_pairs_are_covered() -> None:
    """Where the percentile bootstrap covered .845, and a difference that was never seen."""
    assert 0.93 <= coverage(np.full((1, 9), 0.7), [3] * 9, samples=3000) <= 0.97
    assert 0.93 <= coverage(np.full((1, 1), 0.1), [50], lost=0.1, samples=3000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20, 1001, 109))  # in parts, each of which ends in time on a busy machine
def test_a_share_is_covered_for_every_number_of_items(first: int) -> None:
    for number in range(first, first + 109):
        mean, least = share_coverage(number)
        assert 0.95 <= mean <= 0.965 and least >= 0.92, number


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3,), (5,), (10,), (20,), (3, 5, 10, 20)])
@pytest.mark.parametrize("number", [3, 5, 9, 20])
def test_means_over_suites_are_covered(number: int, size: tuple[int, ...]) -> None:
    sizes = np.resize(size, number).tolist()
    assert 0.93 <= coverage(np.random.default_rng(1).random((10_000, number)), sizes) <= 0.97  # other shares in each sample
    for share in (0.3, 0.5, 0.9):
        assert 0.93 <= coverage(np.full((1, number), share), sizes) <= 0.97
    assert 0.93 <= coverage(np.linspace(0.6, 0.95, number)[None], sizes) <= 0.97
    # Items that are nearly all right or nearly all wrong: the interval may be too wide, not too narrow.
    assert coverage(np.resize([0.02, 0.3, 0.7, 0.98], number)[None], sizes) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("shares", "sizes"), [((0.65,) * 3, (3, 3, 3)), ((0.02, 0.98, 0.02), (3, 20, 3)), ((0.5, 0.95), (20, 4))])
def test_the_corners_that_are_not_covered_are_near(shares: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    """A few suites of few items have few different means; docs/report.md says how rare that is."""
    assert 0.89 <= coverage(np.array([shares]), sizes) < 0.935


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "gained", "lost"),
    [
        *[([number], *changed) for number in (20, 50, 100, 200) for changed in ((0.25, 0.05), (0.3, 0.1), (0.2, 0.2))],
        *[([number], *changed) for number in (100, 200) for changed in ((0.1, 0.1), (0.05, 0.05), (0.05, 0.0))],
        *[([number] * 9, *changed) for number in (3, 5, 10, 20) for changed in ((0.25, 0.05), (0.3, 0.1), (0.2, 0.2))],
        *[([number] * 3, *changed) for number in (10, 20) for changed in ((0.25, 0.05), (0.3, 0.1), (0.2, 0.2))],
    ],
)
def test_paired_differences_are_covered(sizes: list[int], gained: float, lost: float) -> None:
    assert 0.93 <= coverage(np.full((1, len(sizes)), gained), sizes, lost) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[20], [50], [3] * 3, [3] * 9, [20] * 3])
@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.02), (0.04, 0.0), (0.1, 0.02)])
def test_differences_of_few_items_are_covered_more_often(sizes: list[int], gained: float, lost: float) -> None:
    assert coverage(np.full((1, len(sizes)), gained), sizes, lost) >= 0.93


def test_the_t_interval_by_hand() -> None:
    assert t_interval([0.5]) is None
    lower, upper = t_interval([0.4, 0.5, 0.6]) or (0, 0)
    assert standard_error([0.4, 0.5, 0.6]) == pytest.approx(0.1 / 3**0.5)
    assert (lower, upper) == pytest.approx((0.5 - 4.303 * 0.057735, 0.5 + 4.303 * 0.057735), abs=1e-4)
    many = [0.0, 1.0] * 50
    assert (t_interval(many) or (0, 0))[1] == pytest.approx(0.5 + 2.042 * standard_error(many))


def test_the_quantiles_are_those_of_simulated_samples() -> None:
    """Another source than the table: samples of a normal distribution."""
    samples = np.random.default_rng(0).standard_normal((200_000, 5))
    ratio = np.abs(samples.mean(1)) / (samples.std(1, ddof=1) / 5**0.5)
    assert np.quantile(ratio, 0.95) == pytest.approx(T_975[3], rel=0.02)
    assert list(T_975) == sorted(T_975, reverse=True) and len(T_975) == 30


def test_wilsons_interval_is_that_of_his_formula() -> None:
    """15 of 20: .531 to .888 (scipy's ``binomtest(15, 20).proportion_ci(method="wilson")``); its ends solve |share - p| = 1.96 sqrt(p (1 - p) / n)."""
    assert wilson_interval(15, 20) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    for successes in (0, 1, 7, 20):
        for end in wilson_interval(successes, 20):
            assert abs(successes / 20 - end) == pytest.approx(Z_975 * math.sqrt(end * (1 - end) / 20), abs=1e-9)
    assert wilson_interval(0, 20)[0] == 0 and wilson_interval(20, 20)[1] == 1
