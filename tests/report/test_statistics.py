from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_talr.report.statistics import (
    RESAMPLES,
    T_975,
    bootstrap_means,
    hypervolume,
    hypervolume_of_size,
    interval,
    pareto_front,
    standard_error,
    t_interval,
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


def test_bootstrap_draws_are_resampled_means() -> None:
    values, groups = np.array([0.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 3])
    draws = bootstrap_means(values, groups)
    assert draws.shape == (RESAMPLES,)
    assert set(np.round(draws * 6).astype(int)) == {15, 16, 17, 18}  # (k / 3 + 5) / 2; the group of one item is always drawn
    assert draws.mean() == pytest.approx((2 / 3 + 5) / 2, abs=0.02)
    assert np.array_equal(draws, bootstrap_means(values, groups)) and not np.array_equal(draws, bootstrap_means(values, groups, seed=1))


def test_the_interval_is_as_wide_as_theory_says() -> None:
    values = np.repeat([0.0, 1.0], 200)
    lower, upper = interval(bootstrap_means(values, np.zeros(400, dtype=int)))
    assert (upper - lower) / 2 == pytest.approx(1.96 * 0.5 / 20, rel=0.06) and lower < 0.5 < upper


def test_draws_of_the_same_items_are_paired() -> None:
    rng = np.random.default_rng(0)
    ease, groups = rng.random(300), np.repeat([0, 1, 2], 100)
    first, second = (ease < 0.5).astype(float), (ease < 0.55).astype(float)
    apart = bootstrap_means(second, groups) - bootstrap_means(first, groups)
    np.testing.assert_allclose(apart, bootstrap_means(second - first, groups), atol=1e-12)
    assert apart.std() < 0.5 * bootstrap_means(first, groups).std()


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
