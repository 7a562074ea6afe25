import numpy as np
import pytest

from lit_talr.data.batch_plan import Batching, BatchPlan
from lit_talr.data.mixture import Mixture

OWN, GENERAL = np.random.Generator(np.random.PCG64(1)).integers([[5]], [[60], [200]], size=(2, 400))
LENGTHS = np.concatenate([OWN, GENERAL])
MIXTURE = Mixture(len(OWN), share=0.2)


def share(ids: np.ndarray) -> float:
    return float(LENGTHS[ids[ids >= len(OWN)]].sum() / LENGTHS[ids].sum())


@pytest.mark.parametrize("asked", [0.01, 0.1, 0.2, 0.5, 0.75, 0.9])
def test_every_epoch_has_all_own_examples_and_the_share_in_tokens(asked: float) -> None:
    mixture = Mixture(len(OWN), asked)
    for epoch in range(3):
        ids = mixture.order(LENGTHS, seed=0, epoch=epoch)
        assert len(ids) == mixture.num_examples(LENGTHS)
        assert sorted(ids[ids < len(OWN)]) == list(range(len(OWN)))
        one_example = GENERAL.max() / LENGTHS[ids].sum()
        assert share(ids) == pytest.approx(asked, abs=max(one_example, 0.02 * asked))


def test_every_stretch_of_an_epoch_has_the_share_to_within_an_example() -> None:
    ids = MIXTURE.order(LENGTHS, seed=0, epoch=0)
    assert all(abs(share(stretch) - 0.2) < GENERAL.max() / LENGTHS[stretch].sum() for stretch in np.array_split(ids, 10))


def test_epochs_and_seeds_draw_other_general_examples_and_no_epoch_one_twice_where_there_are_enough() -> None:
    drawn = [[index for index in MIXTURE.order(LENGTHS, seed, epoch) if index >= len(OWN)] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(len(set(one)) == len(one) for one in drawn)
    assert len({tuple(sorted(one)) for one in drawn}) == 3
    seen = {index for epoch in range(80) for index in MIXTURE.order(LENGTHS, 0, epoch)}
    assert seen == set(range(len(LENGTHS)))


def test_few_general_examples_come_again_in_equal_numbers() -> None:
    few = np.concatenate([OWN, GENERAL[:3]])
    mixture = Mixture(len(OWN), share=0.3)
    _, counts = np.unique(mixture.order(few, 0, 0)[mixture.order(few, 0, 0) >= len(OWN)], return_counts=True)
    assert counts.sum() == mixture.num_general(few) > 10 and counts.max() - counts.min() <= 1


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_plan_deals_the_epoch_whole_over_ranks_with_its_number_of_tokens(world_size: int) -> None:
    batching = Batching(batch_size=16, micro_batch_tokens=400, seed=7)
    plans = [BatchPlan(LENGTHS, LENGTHS, batching, world_size=world_size, rank=rank, epochs=2, mixture=MIXTURE) for rank in range(world_size)]
    for epoch in range(2):
        expected = MIXTURE.order(LENGTHS, 7, epoch)
        for plan in plans:
            plan.set_epoch(epoch)
        assert plans[0].steps_per_epoch == -(-len(expected) // 16)
        for step in range(plans[0].steps_per_epoch):
            dealt = [micro_batch for plan in plans for micro_batch in plan.micro_batches(step)]
            ids = expected[step * 16 : (step + 1) * 16]
            assert sorted(index for micro_batch in dealt for index in micro_batch.ids) == sorted(ids)
            assert {micro_batch.num_items_in_batch for micro_batch in dealt} == {LENGTHS[ids].sum()}
