"""Exchanges between ranks; each is a no-op in a single process."""

import os
import time
from contextlib import suppress
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

T = TypeVar("T")
STARTED_BY = "LIT_TALR_STARTED_BY"
"""Variable with the process of rank 0, for the ranks that it starts; torchrun and SLURM look after their ranks themselves."""


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sums equally shaped tensors over all ranks; returns the tensor itself in a single process."""
    if has_ranks():
        value = value.clone()
        dist.all_reduce(value)
    return value


def gather_over_ranks(values: Tensor) -> Tensor:
    """Concatenates one-dimensional tensors of any lengths from all ranks; returns the tensor itself in a single process."""
    if has_ranks():
        from torchmetrics.utilities.distributed import gather_all_tensors  # half a second, which a single process need not wait for

        return torch.cat(gather_all_tensors(values))
    return values


def gather_lists(rows: list[T]) -> list[T]:
    """Concatenates the lists of all ranks, in the order of the ranks, on every rank."""
    if not has_ranks():
        return rows
    parts: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def all_ranks_come(here: str, seconds: float = 30) -> bool:
    """Whether every rank calls this for the same place within some seconds; a collective would wait forever for one that does not."""
    if not has_ranks():
        return True
    store, end = dist.distributed_c10d._get_default_store(), time.monotonic() + seconds
    marks = [f"{here}/{rank}" for rank in range(dist.get_world_size())]
    with suppress(dist.DistError):  # the rank that keeps the store has ended
        store.set(marks[dist.get_rank()], "")
        while time.monotonic() < end:
            if store.check(marks):
                return True
            time.sleep(0.1)
        store.delete_key(marks[dist.get_rank()])  # for a rank that comes later, after this one has gone
    return False


def local(value: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def has_ranks() -> bool:
    """Whether this process exchanges with others."""
    return dist.is_available() and dist.is_initialized()


def is_rank_zero() -> bool:
    """Whether this process writes and logs for all."""
    return not has_ranks() or dist.get_rank() == 0


def rank() -> int:
    """The number of this process among the ranks, also before they can exchange."""
    if has_ranks():
        return dist.get_rank()
    return next((int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ), 0)


def starter_has_ended() -> bool:
    """Whether rank 0 started this process, and is gone."""
    return rank() > 0 and os.environ.get(STARTED_BY, str(os.getppid())) != str(os.getppid())
