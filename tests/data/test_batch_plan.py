import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lit_talr.data.batch_plan import Batching, BatchPlan, MicroBatch, accumulation, arrange, epoch_order

check = settings(max_examples=150, deadline=None)


class Layout(NamedTuple):
    """Everything that a plan depends on except the rank."""

    lengths: np.ndarray
    num_supervised: np.ndarray
    batching: Batching
    world_size: int
    shuffle: bool
    epochs: int

    def plan(self, rank: int = 0) -> BatchPlan:
        lengths, num_supervised, batching, world_size, shuffle, epochs = self
        return BatchPlan(lengths, num_supervised, batching, world_size=world_size, rank=rank, shuffle=shuffle, epochs=epochs)

    def steps(self, epoch: int = 0) -> list[list[list[MicroBatch]]]:
        """``steps[step][rank][micro_step]`` of an epoch."""
        ranks = []
        for rank in range(self.world_size):
            plan = self.plan(rank)
            plan.set_epoch(epoch)
            ranks.append(list(plan))
            assert len(ranks[-1]) == len(plan) == plan.steps_per_epoch * plan.accumulate
        accumulate, num_steps = plan.accumulate, plan.steps_per_epoch
        return [[rank[step * accumulate : (step + 1) * accumulate] for rank in ranks] for step in range(num_steps)]

    def load(self, micro_batch: MicroBatch) -> int:
        lengths = [int(self.lengths[index]) for index in micro_batch.ids]
        return sum(lengths) if self.batching.packing else len(lengths) * max(lengths, default=0)


@st.composite
def layouts(draw: st.DrawFn, tokens: bool | None = None, shuffle: bool | None = None) -> Layout:
    lengths = np.array(draw(st.lists(st.integers(1, 40), min_size=1, max_size=60)))
    num_supervised = np.array([draw(st.integers(1, int(length))) for length in lengths])
    by_tokens = draw(st.booleans()) if tokens is None else tokens
    sizes: dict[str, Any] = {"micro_batch_size": draw(st.none() | st.integers(1, 7))}
    if by_tokens:
        sizes = {"micro_batch_tokens": draw(st.integers(40, 120)), "packing": draw(st.booleans())}
    batching = Batching(batch_size=draw(st.integers(1, 25)), seed=draw(st.integers(0, 5)), **sizes)
    shuffled = draw(st.booleans()) if shuffle is None else shuffle
    return Layout(lengths, num_supervised, batching, world_size=draw(st.integers(1, 5)), shuffle=shuffled, epochs=draw(st.integers(1, 3)))


def members(step: list[list[MicroBatch]]) -> list[int]:
    return sorted(index for rank in step for micro_batch in rank for index in micro_batch.ids)


@check
@given(layout=layouts())
def test_every_example_comes_once_an_epoch(layout: Layout) -> None:
    for epoch in range(layout.epochs):
        assert sorted(index for step in layout.steps(epoch) for index in members(step)) == list(range(len(layout.lengths)))


@check
@given(layout=layouts())
def test_num_items_in_batch_counts_the_step_over_ranks_and_micro_steps(layout: Layout) -> None:
    plan = layout.plan()
    for number, step in enumerate(layout.steps()):
        counts = {micro_batch.num_items_in_batch for rank in step for micro_batch in rank}
        assert counts == {sum(int(layout.num_supervised[index]) for index in members(step))} == {plan.num_items_in_batch(number)}


@check
@given(layout=layouts())
def test_windows_are_whole_on_every_rank(layout: Layout) -> None:
    steps = layout.steps()
    sizes = [len(members(step)) for step in steps]
    assert sizes[:-1] == [layout.batching.batch_size] * (len(steps) - 1) and 1 <= sizes[-1] <= layout.batching.batch_size
    assert {len(rank) for step in steps for rank in step} == {layout.plan().accumulate}


@check
@given(layout=layouts(shuffle=True))
def test_the_plan_is_pure(layout: Layout) -> None:
    plan = layout.plan()
    first, again = list(plan), list(plan)
    plan.set_epoch(1 if layout.epochs > 1 else 0)
    list(plan)
    plan.set_epoch(0)
    assert first == again == list(plan) == list(layout.plan()) == list(pickle.loads(pickle.dumps(plan)))


@check
@given(layout=layouts(), other=layouts())
def test_members_of_a_step_depend_on_number_of_examples_seed_epoch_and_batch_size_alone(layout: Layout, other: Layout) -> None:
    lengths = np.resize(other.lengths, len(layout.lengths))
    batching = replace(other.batching, batch_size=layout.batching.batch_size, seed=layout.batching.seed)
    other = Layout(lengths, lengths, batching, other.world_size, layout.shuffle, layout.epochs)
    for epoch in range(layout.epochs):
        assert [members(step) for step in layout.steps(epoch)] == [members(step) for step in other.steps(epoch)]


def test_order_changes_with_seed_and_epoch() -> None:
    lengths = np.ones(50, dtype=np.int64)
    orders = set()
    for seed in range(3):
        plan = BatchPlan(lengths, lengths, Batching(seed=seed, batch_size=10))
        for epoch in range(3):
            plan.set_epoch(epoch)
            orders.add(tuple(plan.step_ids(0).tolist()))
    assert len(orders) == 9


@check
@given(layout=layouts(shuffle=False))
def test_without_shuffle_steps_follow_the_data_in_every_epoch(layout: Layout) -> None:
    size = layout.batching.batch_size
    expected = [list(range(len(layout.lengths)))[start : start + size] for start in range(0, len(layout.lengths), size)]
    assert [members(step) for step in layout.steps(0)] == expected
    assert layout.steps(0) == layout.steps(3)


@check
@given(layout=layouts(tokens=False))
def test_micro_batch_size_fills_all_but_one_micro_batch(layout: Layout) -> None:
    size = layout.batching.micro_batch_size or 1
    for step in layout.steps():
        counts = sorted((len(micro_batch.ids) for rank in step for micro_batch in rank if micro_batch.ids), reverse=True)
        assert counts[:-1] == [size] * (len(counts) - 1) and counts[-1] <= size


@check
@given(layout=layouts(tokens=True))
def test_micro_batch_tokens_bounds_tokens_with_padding(layout: Layout) -> None:
    assert layout.batching.micro_batch_tokens is not None
    assert all(layout.load(micro_batch) <= layout.batching.micro_batch_tokens for step in layout.steps() for rank in step for micro_batch in rank)


@check
@given(layout=layouts())
def test_accumulate_is_the_least_that_holds_every_planned_step(layout: Layout) -> None:
    used = [sum(bool(micro_batch.ids) for rank in step for micro_batch in rank) for epoch in range(layout.epochs) for step in layout.steps(epoch)]
    assert layout.plan().accumulate == math.ceil(max(used) / layout.world_size)


@check
@given(layout=layouts(tokens=True))
def test_packing_needs_no_more_micro_batches_and_has_no_two_rows_that_fit_into_one(layout: Layout) -> None:
    limit, ids = layout.batching.micro_batch_tokens, np.arange(len(layout.lengths))
    padded, packed = (arrange(ids, layout.lengths, replace(layout.batching, packing=packing)) for packing in (False, True))
    assert limit is not None and len(packed) <= len(padded)
    loads = sorted(int(layout.lengths[row].sum()) for row in packed)
    assert len(loads) == 1 or loads[0] + loads[1] > limit


def test_the_last_step_may_need_the_most_micro_batches() -> None:
    lengths, batching = np.array([1, 1, 1, 1, 9, 9, 9]), Batching(batch_size=4, micro_batch_tokens=10)
    assert accumulation(lengths, batching, 1, len(lengths), [np.arange(len(lengths))]) == 3


def test_ties_are_in_order_of_the_ids() -> None:
    lengths, batching = np.array([4, 8, 4, 8]), Batching(micro_batch_size=2)
    assert [members.tolist() for members in arrange(np.array([3, 2, 1, 0]), lengths, batching)] == [[1, 3], [0, 2]]


@check
@given(layout=layouts())
def test_ranks_are_balanced(layout: Layout) -> None:
    for step in layout.steps():
        loads = np.array([[layout.load(micro_batch) for micro_batch in rank] for rank in step])
        totals = loads.sum(1)
        assert totals.max() - totals.min() <= loads.max()
        used = loads.any(0)
        assert (np.diff(used.astype(int)) >= 0).all()  # micro-steps that are empty on all ranks come first
        assert (loads[:, used].min(0)[:-1] >= loads[:, used].max(0)[1:]).all()  # each micro-step is as even as sorting can make it


def test_a_step_by_hand() -> None:
    lengths, num_supervised = np.array([3, 9, 5, 9, 1, 7, 2]), np.array([1, 2, 3, 4, 1, 6, 1])
    ranks = [list(BatchPlan(lengths, num_supervised, Batching(7, 1), world_size=2, rank=rank, shuffle=False)) for rank in range(2)]
    # longest first: 1 3 5 2 0 6 4, assigned to ranks 0 1, 1 0, 0 1, 1
    assert ranks == [[MicroBatch(ids, 18) for ids in ((1,), (2,), (0,), ())], [MicroBatch(ids, 18) for ids in ((3,), (5,), (6,), (4,))]]
    # in at most 18 padded tokens: 2 x 9, 2 x 7 (5 2), 3 x 3 (0 6 4)
    plan = BatchPlan(lengths, num_supervised, Batching(7, micro_batch_tokens=18), shuffle=False)
    assert [micro_batch.ids for micro_batch in plan] == [(1, 3), (5, 2), (0, 6, 4)]
    # packed into rows of 13: 9 3 1, 9 2, 7 5
    plan = BatchPlan(lengths, num_supervised, Batching(7, micro_batch_tokens=13, packing=True), shuffle=False)
    assert list(plan) == [MicroBatch(ids, 18, packed=True) for ids in ((1, 0, 4), (5, 2), (3, 6))]


@check
@given(layout=layouts(), data=st.data())
def test_resume_gives_the_tail_of_that_epoch_only(layout: Layout, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, layout.epochs - 1))
    rank = data.draw(st.integers(0, layout.world_size - 1))
    whole, plan = layout.plan(rank), layout.plan(rank)
    start = data.draw(st.integers(0, plan.steps_per_epoch - 1))
    plan.resume(epoch, start)
    whole.set_epoch(epoch)
    assert (plan.epoch, plan.start_step, len(plan)) == (epoch, start, len(whole))
    assert list(plan) == list(whole)[start * plan.accumulate :]
    for other in {*range(layout.epochs)} - {epoch}:
        plan.set_epoch(other)
        whole.set_epoch(other)
        assert plan.start_step == 0 and list(plan) == list(whole)
    plan.set_epoch(epoch)  # Lightning sets the epoch after the checkpoint is read
    assert plan.start_step == start


class Echo(Dataset):
    def __getitem__(self, item: MicroBatch) -> MicroBatch:
        assert isinstance(item, MicroBatch)
        return item


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_gets_micro_batches(num_workers: int) -> None:
    lengths = np.arange(1, 12)
    plan = BatchPlan(lengths, lengths, Batching(4, 2), world_size=2, rank=1)
    assert isinstance(plan, DistributedSampler)  # or Lightning would put one in its place
    batches: list[Any] = list(DataLoader(Echo(), batch_size=None, sampler=plan, num_workers=num_workers))
    assert [(tuple(batch.ids), batch.num_items_in_batch, batch.packed) for batch in batches] == [tuple(micro_batch) for micro_batch in plan]
    assert all(type(batch.num_items_in_batch) is int and all(type(index) is int for index in batch.ids) for batch in batches)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Batching(batch_size=0), "`batching.batch_size` must be at least 1, got 0."),
        (lambda: Batching(micro_batch_size=0), "`batching.micro_batch_size` must be at least 1, got 0."),
        (lambda: Batching(micro_batch_tokens=-5), "`batching.micro_batch_tokens` must be at least 1, got -5."),
        (lambda: Batching(eval_batch_size=0), "`batching.eval_batch_size` must be at least 1, got 0."),
        (lambda: Batching(seed=-1), "`batching.seed` must be at least 0, got -1."),
        (lambda: Batching(num_workers=-1), "`batching.num_workers` must be at least 0, got -1."),
        (lambda: Batching(micro_batch_size=1, micro_batch_tokens=9), "exclude each other, got 1 and 9; leave one out"),
        (lambda: Batching(packing=True), "`batching.packing` needs `batching.micro_batch_tokens`, the length of a row"),
        (lambda: BatchPlan(np.array([]), np.array([]), Batching()), "There are no examples"),
        (
            lambda: BatchPlan(np.array([3, 8, 5]), np.array([1, 1, 1]), Batching(micro_batch_tokens=6)),
            "Example 1 has 8 tokens, more than `batching.micro_batch_tokens`, 6; raise it to at least 8",
        ),
    ],
)
def test_refusals(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_a_step_after_the_planned_epochs_that_does_not_fit_is_refused() -> None:
    lengths = np.arange(1, 31)
    batching = Batching(batch_size=5, micro_batch_tokens=30)
    orders = [epoch_order(len(lengths), batching.seed, epoch, shuffle=True) for epoch in range(20)]
    needed = [accumulation(lengths, batching, 1, len(lengths), orders[: epoch + 1]) for epoch in range(20)]
    later = next(epoch for epoch, count in enumerate(needed) if count > needed[0])
    plan = BatchPlan(lengths, lengths, batching)
    plan.set_epoch(later)
    with pytest.raises(ValueError, match=rf"of epoch {later + 1} needs {needed[later]} micro-batches .* plan for 1 epoch.*`trainer.max_epochs`"):
        list(plan)
    assert len(list(BatchPlan(lengths, lengths, batching, epochs=later + 1))) == 6 * needed[later]
