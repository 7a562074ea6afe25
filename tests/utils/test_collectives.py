"""Exchanges between ranks."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg  # noqa: F401  a process group without other processes

from lit_talr.utils.collectives import all_ranks_come


@pytest.fixture
def store() -> Iterator[dist.Store]:
    """The store of the first of two ranks; the second never starts."""
    store = dist.HashStore()
    dist.init_process_group("fake", store=store, rank=0, world_size=2)
    yield dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()


def test_a_rank_that_stays_away_is_not_waited_for_and_finds_no_trace_of_this_one(store: dist.Store) -> None:
    assert not all_ranks_come("failed at 3", seconds=0.1)
    assert not store.check(["failed at 3/0"])
    store.set("failed at 3/1", "")
    assert all_ranks_come("failed at 3", seconds=0.1)


def test_one_process_is_all_ranks() -> None:
    assert all_ranks_come("failed at 3")
