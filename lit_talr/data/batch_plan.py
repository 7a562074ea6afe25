"""Which examples form an optimizer step, and how its micro-batches divide over ranks."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from lit_talr.data.mixture import Mixture
from lit_talr.utils.errors import check_least


class MicroBatch(NamedTuple):
    """The examples of one forward pass on one rank."""

    ids: tuple[int, ...]  # () for an empty micro-batch
    num_items_in_batch: int  # supervised tokens of the whole optimizer step, over all ranks and micro-batches
    packed: bool = False  # the examples follow one another in a single row


@dataclass(frozen=True)
class Batching:
    """How examples become optimizer steps. The number of accumulated micro-batches follows from it and the number of ranks.

    Args:
        batch_size: Examples per optimizer step, over all ranks and micro-batches, at least 1.
        micro_batch_size: Examples per micro-batch (one forward on one rank), at least 1; 1 if ``micro_batch_tokens`` is left out too.
        micro_batch_tokens: Most tokens of a micro-batch, padding included (rows times the longest); replaces ``micro_batch_size``. It does not change the
            examples of a step.
        packing: Put the examples of a micro-batch into one row of at most ``micro_batch_tokens`` without padding. Positions restart with each example, and
            attention stays within it: only speed and memory change (and losses that use a whole forward, such as TALR's temperature by default).
        seed: Seed of the order of the examples, and of dropout, at least 0.
        eval_batch_size: Prompts that a rank generates responses for at once in testing and scoring, at least 1.
        num_workers: Processes that collate batches; 0 collates in the training process.

    Raises:
        ValueError: For a number out of range, both ``micro_batch_size`` and ``micro_batch_tokens``, or ``packing`` without the latter.
    """

    batch_size: int = 16
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    packing: bool = False
    seed: int = 0
    eval_batch_size: int = 8
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size", "micro_batch_tokens", "eval_batch_size", "seed", "num_workers"):
            check_least(f"batching.{name}", getattr(self, name), 0 if name in ("seed", "num_workers") else 1)
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            raise ValueError(
                "`batching.micro_batch_size` and `batching.micro_batch_tokens` exclude each other, "
                f"got {self.micro_batch_size} and {self.micro_batch_tokens}; leave one out, or reset it: "
                f"--data.batching '{{micro_batch_size: null, micro_batch_tokens: {self.micro_batch_tokens}}}'."
            )
        if self.packing and self.micro_batch_tokens is None:
            raise ValueError(
                "`batching.packing` needs `batching.micro_batch_tokens`, the length of a row, in place of `batching.micro_batch_size`: "
                "--data.batching '{micro_batch_size: null, micro_batch_tokens: 4096, packing: true}'."
            )


@dataclass(eq=False, repr=False)
class BatchPlan(DistributedSampler[MicroBatch]):
    """Samples the micro-batches of one rank; ``DataLoader(dataset, batch_size=None, sampler=plan)`` asks ``dataset[micro_batch]`` for each.

    A pure function of its arguments and the epoch. The members of a step depend only on (number of examples, seed, epoch, batch size): they are
    consecutive chunks of a permutation, the last one shorter. Lengths only arrange the members: ``arrange`` sorts and cuts them, and ranks are assigned
    in snake order. So the ranks of a micro-step have similar work, and their sums over the step differ by at most one micro-batch. Every step has
    ``accumulate`` micro-batches on every rank; missing ones are empty. Micro-steps that are empty on every rank come first, because the last one
    triggers the optimizer step.

    Subclasses ``DistributedSampler`` without its ``__init__``, so that Lightning keeps it as it is and calls ``set_epoch``, which is torch's.

    Args:
        lengths: ``[n]`` tokens of each example, the width of its row, at least 1.
        num_supervised: ``[n]`` supervised tokens of each example.
        batching: The sizes and the seed.
        world_size: Number of ranks.
        rank: The rank whose micro-batches are sampled, in ``[0, world_size)``.
        shuffle: Draw a new order each epoch; otherwise steps follow the order of the data.
        epochs: Epochs for which ``accumulate`` suffices; with ``micro_batch_tokens`` and ``shuffle`` later ones may need more.
        mixture: Shares of a domain's and of general examples in each epoch by their supervised tokens; needs ``shuffle``. The members of a step then
            depend on ``num_supervised`` too.

    Attributes:
        accumulate: Micro-batches of each optimizer step on each rank, the same in every step and epoch.
        epoch: The current epoch.

    Raises:
        ValueError: For no examples, and for an example longer than ``micro_batch_tokens``. While iterating: for a step after the planned epochs
            that needs more micro-batches than there are.
    """

    lengths: np.ndarray
    num_supervised: np.ndarray
    batching: Batching
    _: KW_ONLY
    world_size: int = 1
    rank: int = 0
    shuffle: bool = True
    epochs: int = 1
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        assert self.mixture is None or self.shuffle
        assert 0 <= self.rank < self.world_size and len(self.lengths) == len(self.num_supervised) and self.epochs >= 1
        if len(self.lengths) == 0:
            raise ValueError("There are no examples to form batches from; give at least one.")
        assert self.lengths.min() >= 1
        longest, limit = int(self.lengths.argmax()), self.batching.micro_batch_tokens
        if limit is not None and (width := self.lengths[longest]) > limit:
            raise ValueError(
                f"Example {longest} has {width} tokens, more than `batching.micro_batch_tokens`, {limit}; "
                f"raise it to at least {width}, or lower `encoding.max_length`."
            )
        self.seed = self.batching.seed
        self.epoch = 0
        self._resumed = (0, 0)  # an epoch, and the number of its steps that are done
        self._order: tuple[int, np.ndarray] | None = None  # an epoch and its order, cached
        orders = map(self.order, range(self.epochs if self.shuffle else 1))
        self.accumulate = accumulation(self.lengths, self.batching, self.world_size, self.num_examples, orders)

    @property
    def num_examples(self) -> int:
        """Examples of an epoch, the same in every epoch."""
        return len(self.lengths) if self.mixture is None else self.mixture.num_examples(self.num_supervised)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps, the same in every epoch."""
        return math.ceil(self.num_examples / self.batching.batch_size)

    def num_steps(self, max_epochs: int | None, max_steps: int) -> int:
        """Optimizer steps of a run that ends by either limit; None and -1 are no limit."""
        limits = [self.steps_per_epoch * max_epochs] if max_epochs is not None and max_epochs >= 0 else []
        return min([*limits, max_steps] if max_steps >= 0 else limits)

    @property
    def start_step(self) -> int:
        """Number of steps of this epoch that were done before the run was resumed, and are skipped."""
        epoch, step = self._resumed
        return step if epoch == self.epoch else 0

    def __len__(self) -> int:
        """Micro-batches of a **full** epoch on each rank, even if steps are skipped: Lightning restores its own count of those done."""
        return self.steps_per_epoch * self.accumulate

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in range(self.start_step, self.steps_per_epoch):
            yield from self.micro_batches(step)

    def resume(self, epoch: int, start_step: int) -> None:
        """Skips the first ``start_step`` steps of an epoch and makes it the current one; other epochs stay whole."""
        assert epoch >= 0 and 0 <= start_step < self.steps_per_epoch
        self.epoch = epoch
        self._resumed = (epoch, start_step)

    def order(self, epoch: int) -> np.ndarray:
        """The examples of an epoch, step by step."""
        if self.mixture is not None:
            return self.mixture.order(self.num_supervised, self.seed, epoch)
        return epoch_order(self.num_examples, self.seed, epoch, self.shuffle)

    def step_ids(self, step: int) -> np.ndarray:
        """The examples of a step of this epoch, over all ranks, in the order of the epoch."""
        assert 0 <= step < self.steps_per_epoch
        if self._order is None or self._order[0] != self.epoch:
            self._order = self.epoch, self.order(self.epoch)
        return self._order[1][step * self.batching.batch_size : (step + 1) * self.batching.batch_size]

    def num_items_in_batch(self, step: int) -> int:
        """Supervised tokens of a step of this epoch, over all ranks and micro-batches."""
        num_tokens = int(self.num_supervised[self.step_ids(step)].sum())
        assert num_tokens >= 1, "encoding refuses examples without a supervised token"
        return num_tokens

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step of this epoch; always ``accumulate`` of them."""
        arranged = arrange(self.step_ids(step), self.lengths, self.batching)
        if len(arranged) > self.accumulate * self.world_size:
            raise ValueError(
                f"Step {step + 1} of epoch {self.epoch + 1} needs {len(arranged)} micro-batches of `batching.micro_batch_tokens`, but the plan for "
                f"{self.epochs} epoch(s) has {self.accumulate} on each of {self.world_size} rank(s); "
                "plan all epochs with `trainer.max_epochs`, or give `batching.micro_batch_size` instead."
            )
        num_tokens = self.num_items_in_batch(step)
        turns = (self.rank, self.world_size - 1 - self.rank)  # snake order
        num_used = math.ceil(len(arranged) / self.world_size)
        mine = (micro_step * self.world_size + turns[micro_step % 2] for micro_step in (*range(num_used, self.accumulate), *range(num_used)))
        return [MicroBatch(tuple(arranged[index].tolist()) if index < len(arranged) else (), num_tokens, self.batching.packing) for index in mine]


def epoch_order(num_examples: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The order of the examples in an epoch."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_examples) if shuffle else np.arange(num_examples)


def arrange(ids: np.ndarray, lengths: np.ndarray, batching: Batching) -> list[np.ndarray]:
    """Cuts the examples of a step into micro-batches; those with the most tokens (padding included) come first."""
    ids = ids[np.lexsort((ids, -lengths[ids]))]
    index = micro_batch_index(np.append(lengths[ids], 0)[None], batching)[0, :-1]
    by_index = np.argsort(index, kind="stable")
    micro_batches = np.split(ids[by_index], np.flatnonzero(np.diff(index[by_index])) + 1)
    return sorted(micro_batches, key=lambda members: lengths[members].sum() if batching.packing else len(members) * lengths[members[0]], reverse=True)


def micro_batch_index(widths: np.ndarray, batching: Batching) -> np.ndarray:
    """The micro-batch ``[steps, examples + 1]`` of each example. A packed row takes each example, the longest first, if it is the first with room for it.

    Args:
        widths: ``[steps, examples + 1]`` tokens of each example, the longest of each step first, then 0.
        batching: How many examples or tokens a micro-batch holds.
    """
    steps, index, limit = np.arange(len(widths)), np.zeros(widths.shape, dtype=np.int32), batching.micro_batch_tokens
    if batching.packing and limit is not None:
        room = np.full((len(widths), 2 * widths.sum(1).max() // limit + 1), limit)  # all rows but one are more than half full
        for width, index_of_width in zip(widths.T, index.T, strict=True):
            index_of_width[:] = (room >= width[:, None]).argmax(1)
            room[steps, index_of_width] -= width
        return index
    starts = np.zeros_like(steps)
    while len(steps):  # those with examples left
        num_rows = (batching.micro_batch_size or 1) if limit is None else limit // widths[steps, starts]
        starts = np.minimum(starts + num_rows, widths.shape[1] - 1)
        left = widths[steps, starts] > 0
        steps, starts = steps[left], starts[left]
        index[steps, starts] = 1  # begins a micro-batch
    return index.cumsum(1, dtype=np.int32)


def accumulation(lengths: np.ndarray, batching: Batching, world_size: int, num_examples: int, orders: Iterable[np.ndarray]) -> int:
    """The micro-batches that each rank needs in the fullest step of epochs of ``num_examples`` examples in these orders."""
    batch_size = min(batching.batch_size, num_examples)
    if batching.micro_batch_tokens is None:
        return math.ceil(math.ceil(batch_size / (batching.micro_batch_size or 1)) / world_size)
    return math.ceil(max(int(micro_batch_index(longest_first(lengths[order], batch_size), batching).max()) + 1 for order in orders) / world_size)


def longest_first(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """The widths ``[steps, batch_size + 1]`` of consecutive steps, the longest first, then 0."""
    widths = np.zeros((math.ceil(len(lengths) / batch_size), batch_size + 1), dtype=np.int64)
    num_whole = len(lengths) // batch_size
    np.negative(lengths[: num_whole * batch_size].reshape(num_whole, batch_size), out=widths[:num_whole, :-1])
    widths[-1, : len(lengths) % batch_size] -= lengths[num_whole * batch_size :]
    widths.sort(axis=1)  # of the negative lengths
    return np.negative(widths, out=widths)
