"""Which examples form an optimizer step, and how they are laid out over its micro-steps and ranks."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from lit_talr.data.mixture import Mixture


class MicroBatch(NamedTuple):
    """What one rank runs through the model at once."""

    ids: tuple[int, ...]  # the examples, () for an empty one
    num_items_in_batch: int  # supervised tokens of the whole optimizer step, over all ranks and micro-batches
    packed: bool = False  # the examples stand one behind the other in one row


@dataclass(frozen=True)
class Batching:
    """How examples become optimizer steps. The number of accumulated micro-batches follows from it and the number of ranks.

    Args:
        batch_size: Examples per optimizer step, over all ranks and micro-batches, at least 1.
        micro_batch_size: Examples per micro-batch (what one forward on one rank sees), at least 1; 1 where ``micro_batch_tokens`` is left out too.
        micro_batch_tokens: Instead of ``micro_batch_size``: as many examples as stay within this number of tokens, padding included (rows times
            the longest). The examples of a step are the same either way.
        packing: Put the examples of a micro-batch one behind the other into one row of at most ``micro_batch_tokens``, without padding. Positions begin anew
            with each, and attention stays within it, so that nothing but speed and memory changes (and what a loss takes from one forward, such as TALR's
            temperature with its default scope).
        seed: Of the order of the examples, and of dropout, at least 0.
        eval_batch_size: Prompts answered at once on one rank in test and scoring, at least 1.
        num_workers: Processes that collate batches, 0 for the training process itself.

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
        for name in ("batch_size", "micro_batch_size", "micro_batch_tokens", "eval_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`batching.{name}` must be a positive integer, got {value}.")
        for name in ("seed", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"`batching.{name}` must be 0 or a positive integer, got {getattr(self, name)}.")
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            raise ValueError(
                "`batching.micro_batch_size` and `batching.micro_batch_tokens` exclude each other, "
                f"got {self.micro_batch_size} and {self.micro_batch_tokens}; leave one out, or take it back: "
                f"--data.batching '{{micro_batch_size: null, micro_batch_tokens: {self.micro_batch_tokens}}}'."
            )

        if self.packing and self.micro_batch_tokens is None:
            raise ValueError(
                "`batching.packing` needs `batching.micro_batch_tokens`, the length of a row, in place of `batching.micro_batch_size`: "
                "--data.batching '{micro_batch_size: null, micro_batch_tokens: 4096, packing: true}'."
            )

    def rows(self, width: int) -> int:
        """How many examples of at most ``width`` tokens go into a micro-batch, padded to it."""
        return (self.micro_batch_size or 1) if self.micro_batch_tokens is None else self.micro_batch_tokens // width


class BatchPlan(DistributedSampler[MicroBatch]):
    """Deals the micro-batches of one rank: ``DataLoader(dataset, batch_size=None, sampler=plan)`` asks ``dataset[micro_batch]`` for each.

    A pure function of its arguments and the epoch. Which examples form a step depends only on (number of examples, seed, epoch, batch size):
    consecutive chunks of a permutation, the last one with the rest. Lengths only arrange a step's members: sorted and cut by ``arrange``, then
    dealt to the ranks in turn, forth and back, so that a micro-step's ranks work alike and their sums over the step differ by at most one
    micro-batch. Every step has ``accumulate`` micro-batches on every rank; the missing ones are empty, and micro-steps that are empty on every rank come
    first: the last one ends the step, and must not be spared.

    A ``DistributedSampler`` whose ``__init__`` is not called, so that Lightning does not replace it, and calls ``set_epoch``, which is torch's.

    Args:
        lengths: ``[n]`` tokens of each example, the width of its row, at least 1.
        num_supervised: ``[n]`` supervised tokens of each example.
        batching: The sizes and the seed.
        world_size: Number of ranks.
        rank: The rank whose micro-batches are dealt, in ``[0, world_size)``.
        shuffle: A new order each epoch; otherwise steps follow the order of the data.
        epochs: With ``micro_batch_tokens`` and ``shuffle``, ``accumulate`` suffices for this many epochs; later ones may ask for more.
        mixture: The examples are a domain's and general ones, which share each epoch by their supervised tokens; needs ``shuffle``. Which examples form a
            step then depends on ``num_supervised`` too.

    Attributes:
        accumulate: Micro-batches of each optimizer step on each rank, the same in every step and epoch.
        epoch: The epoch that is dealt.

    Raises:
        ValueError: For no examples, and for an example longer than ``micro_batch_tokens``. While iterating: for a step after the planned epochs
            that needs more micro-batches than there are.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        num_supervised: np.ndarray,
        batching: Batching,
        *,
        world_size: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        epochs: int = 1,
        mixture: Mixture | None = None,
    ) -> None:
        assert mixture is None or shuffle
        assert 0 <= rank < world_size and len(lengths) == len(num_supervised) and epochs >= 1
        if len(lengths) == 0:
            raise ValueError("There are no examples to make batches of; give at least one.")
        assert lengths.min() >= 1
        longest, limit = int(lengths.argmax()), batching.micro_batch_tokens
        if limit is not None and lengths[longest] > limit:
            raise ValueError(
                f"Example {longest} has {lengths[longest]} tokens, more than `batching.micro_batch_tokens`, {limit}; "
                f"raise it to at least {lengths[longest]}, or lower `encoding.max_length`."
            )
        self.lengths = lengths
        self.num_supervised = num_supervised
        self.batching = batching
        self.num_replicas = world_size
        self.rank = rank
        self.shuffle = shuffle
        self.seed = batching.seed
        self.planned_epochs = epochs
        self.mixture = mixture
        self.accumulate = accumulation(lengths, batching, world_size, self.num_examples, map(self.order, range(epochs if shuffle else 1)))
        self.epoch = 0
        self._resumed = (0, 0)  # an epoch, and how many of its steps are done
        self._order: tuple[int, np.ndarray] | None = None  # of one epoch

    @property
    def num_examples(self) -> int:
        """Of an epoch, the same in every epoch."""
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
        """How many steps of this epoch are left out, because they were done before the run was resumed."""
        epoch, step = self._resumed
        return step if epoch == self.epoch else 0

    def __len__(self) -> int:
        """Micro-batches of a **full** epoch on each rank, also where steps are left out: Lightning restores its own count of those done."""
        return self.steps_per_epoch * self.accumulate

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in range(self.start_step, self.steps_per_epoch):
            yield from self.micro_batches(step)

    def resume(self, epoch: int, start_step: int) -> None:
        """Deal this epoch, without its first ``start_step`` steps; other epochs stay whole."""
        assert epoch >= 0 and 0 <= start_step < self.steps_per_epoch
        self.epoch = epoch
        self._resumed = (epoch, start_step)

    def order(self, epoch: int) -> np.ndarray:
        """The examples of an epoch, one step's after the other's."""
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
        if len(arranged) > self.accumulate * self.num_replicas:
            raise ValueError(
                f"Step {step} of epoch {self.epoch} needs {len(arranged)} micro-batches of `batching.micro_batch_tokens`, but the plan for "
                f"{self.planned_epochs} epoch(s) has {self.accumulate} on each of {self.num_replicas} rank(s); "
                "plan all epochs with `trainer.max_epochs`, or give `batching.micro_batch_size` instead."
            )
        num_tokens = self.num_items_in_batch(step)
        places = (self.rank, self.num_replicas - 1 - self.rank)  # forth and back
        num_used = math.ceil(len(arranged) / self.num_replicas)
        mine = (micro_step * self.num_replicas + places[micro_step % 2] for micro_step in (*range(num_used, self.accumulate), *range(num_used)))
        return [MicroBatch(tuple(arranged[place].tolist()) if place < len(arranged) else (), num_tokens, self.batching.packing) for place in mine]


def epoch_order(num_examples: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The order of the examples in an epoch."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_examples) if shuffle else np.arange(num_examples)


def arrange(ids: np.ndarray, lengths: np.ndarray, batching: Batching) -> list[np.ndarray]:
    """Cut the examples of a step into micro-batches, those with the most tokens (padding included) first.

    Padded they are cut where they stand when sorted by length. Packed, each goes, the longest first, into the first row that has room for it.
    """
    ids = ids[np.lexsort((ids, -lengths[ids]))]
    widths = lengths[ids].tolist()
    if batching.packing:
        return first_fit(ids.tolist(), widths, batching.micro_batch_tokens or 0)
    micro_batches: list[tuple[int, np.ndarray]] = []
    start = 0
    while start < len(ids):
        members = ids[start : start + batching.rows(widths[start])]
        micro_batches.append((len(members) * widths[start], members))
        start += len(members)
    micro_batches.sort(key=lambda item: item[0], reverse=True)
    return [members for _, members in micro_batches]


def first_fit(ids: list[int], widths: list[int], limit: int) -> list[np.ndarray]:
    """Rows of at most ``limit`` tokens, the fullest first, each example in the first that has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index, width in zip(ids, widths, strict=True):
        place = next((place for place, free in enumerate(room) if free >= width), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(limit)
        rows[place].append(index)
        room[place] -= width
    return [np.array(row) for _, row in sorted(zip(room, rows, strict=True), key=lambda item: item[0])]


def accumulation(lengths: np.ndarray, batching: Batching, world_size: int, num_examples: int, orders: Iterable[np.ndarray]) -> int:
    """The micro-batches that each rank needs in the fullest step of epochs of ``num_examples`` examples in these orders."""
    batch_size = min(batching.batch_size, num_examples)
    if batching.micro_batch_tokens is None:
        return math.ceil(math.ceil(batch_size / batching.rows(1)) / world_size)
    most = most_rows if batching.packing else most_micro_batches
    return math.ceil(max(most(lengths[order], batch_size, batching.micro_batch_tokens) for order in orders) / world_size)


def most_micro_batches(lengths: np.ndarray, batch_size: int, micro_batch_tokens: int) -> int:
    """``max(len(arrange(step)))`` over the consecutive steps of ``lengths``, all steps at once; padded."""
    negative = longest_first(lengths, batch_size)
    num_steps = len(negative)
    steps, starts, count = np.arange(num_steps), np.zeros(num_steps, dtype=np.int64), 0
    while len(steps):  # those that have examples left
        starts = np.minimum(starts + micro_batch_tokens // -negative[steps, starts], batch_size)
        left = negative[steps, starts] < 0
        steps, starts, count = steps[left], starts[left], count + 1
    return count


def most_rows(lengths: np.ndarray, batch_size: int, micro_batch_tokens: int) -> int:
    """The same, packed: ``first_fit`` of all steps at once."""
    widths = -longest_first(lengths, batch_size)
    steps = np.arange(len(widths))
    room = np.full((len(widths), 1), micro_batch_tokens)
    for width in widths.T[:-1]:  # the next example of every step; 0 where there is none
        place = (room >= width[:, None]).argmax(1)
        if (room[steps, place] < width).any():
            room = np.pad(room, ((0, 0), (0, 1)), constant_values=micro_batch_tokens)
            place = (room >= width[:, None]).argmax(1)
        room[steps, place] -= width
    return room.shape[1]


def longest_first(lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """``[steps, batch_size + 1]``: the negative lengths of each step's examples, then 0."""
    num_steps, num_whole = math.ceil(len(lengths) / batch_size), len(lengths) // batch_size
    rest = lengths[num_whole * batch_size :]
    negative = np.zeros((num_steps, batch_size + 1), dtype=np.int64)  # so that longest comes first; 0 ends a step
    np.negative(lengths[: num_whole * batch_size].reshape(num_whole, batch_size), out=negative[:num_whole, :-1])
    negative[-1, : len(rest)] -= rest
    negative.sort(axis=1)
    return negative
