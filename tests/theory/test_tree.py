import numpy as np
import pytest
import torch

from lit_talr.theory import TokenTree, code_length, proposition, random_tree, tree_of_model
from tests.theory.tiny_models import small

SHAPES = [(2, 1), (3, 4), (5, 5), (2, 12), (40, 2)]


@pytest.mark.parametrize(("vocabulary", "depth"), SHAPES)
@pytest.mark.parametrize("end", [None, 1])
def test_the_three_sides_of_proposition_3_1_are_one_number(vocabulary: int, depth: int, end: int | None) -> None:
    for seed in range(5):
        p, first, second = (random_tree(vocabulary, depth, 10 * seed + number, end) for number in range(3))
        found = proposition(p, first, second)
        assert found.by_level.shape == (depth,)
        assert abs(found.change - found.by_level.sum()) < 1e-12 and abs(found.change - found.kl_change) < 1e-12
        assert abs(found.change) > 1e-3


def test_by_hand() -> None:
    """P always says 0 0; the first model holds each 0 for 1/2, the second for 1/4 and then 1/8."""
    p, first, second = (TokenTree((np.array([q, 1 - q]), np.array([[r, 1 - r], [0.5, 0.5]]))) for q, r in ((1.0, 1.0), (0.5, 0.5), (0.25, 0.125)))
    found = proposition(p, first, second)
    np.testing.assert_allclose(found.by_level, [np.log(2), np.log(4)], rtol=1e-15)
    assert found.change == pytest.approx(np.log(8), rel=1e-15) and found.kl_change == pytest.approx(np.log(8), rel=1e-15)


def test_under_the_other_readings_it_does_not_hold() -> None:
    p, first, second = (random_tree(3, 4, seed) for seed in (0, 1, 2))
    nodes, ones, twos = (tree.nodes() for tree in (p, first, second))
    reached_q = -sum(float((node * np.log(two / one)).sum()) for node, one, two in zip(nodes, ones, twos, strict=True))
    branch_p = -sum(float((level * np.log(two / one)).sum()) for level, one, two in zip(p.levels, first.levels, second.levels, strict=True))
    change = proposition(p, first, second).change
    assert abs(reached_q - change) > 0.05 and abs(branch_p - change) > 0.05


def test_where_the_data_are_the_first_model_the_change_is_the_divergence() -> None:
    first, second = random_tree(4, 4, 0), random_tree(4, 4, 1)
    leaves, others = first.nodes()[-1], second.nodes()[-1]
    assert proposition(first, first, second).change == pytest.approx(float((leaves * np.log(leaves / others)).sum()), abs=1e-12)
    assert proposition(first, first, first).change == 0


def test_every_level_is_a_distribution_and_after_an_end_comes_nothing() -> None:
    for level in random_tree(3, 4, 0, end=2).nodes():
        assert level.sum() == pytest.approx(1, abs=1e-14)
    tree = random_tree(3, 4, 0, end=2)
    assert tree.nodes()[3][2, 2, 2, 2] == tree.nodes()[0][2] and tree.nodes()[3][2, 0].sum() == 0


def test_the_tree_of_a_model_has_its_code_lengths() -> None:
    model = small(vocabulary=4, dtype=torch.float64)
    leaves = tree_of_model(model, depth=3, start=2).nodes()[-1]
    assert leaves.shape == (4, 4, 4) and leaves.sum() == pytest.approx(1, abs=1e-12)
    places = [(0, 1, 2), (3, 3, 3), (2, 0, 1)]
    found = code_length(model, [[2, *place] for place in places]).nats
    np.testing.assert_allclose([-np.log(leaves[place]) for place in places], found.numpy(), rtol=1e-10)


def test_the_proposition_on_models() -> None:
    p, first, second = (tree_of_model(small(4, seed, dtype=torch.float64), depth=4, start=0) for seed in (0, 1, 2))
    found = proposition(p, first, second)
    assert abs(found.change - found.by_level.sum()) < 1e-12 and abs(found.change - found.kl_change) < 1e-12
