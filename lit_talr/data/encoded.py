"""Encoded examples in one flat array, and the batches cut from it."""

import hashlib
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.encoder import Encoded, join_weights
from lit_talr.kernels.token_nll import IGNORE_INDEX


class Packing(NamedTuple):
    """Positions of the examples in a packed row ``[1, T]``, which has no padding."""

    position_ids: Tensor  # [1, T] int64, from 0 in each example
    boundaries: Tensor  # [E + 1] int32, the start of each example, and T
    longest: int  # tokens of the longest example


class Batch(TypedDict):
    """A micro-batch; position t predicts token t + 1. It holds no floats, which DeepSpeed would round to its own precision."""

    input_ids: Tensor  # [B, T] int64
    packing: Packing | None  # None if each example has a row, padded on the right, where causal attention never looks
    labels: Tensor  # [B, T] int64, the token that position t predicts, IGNORE_INDEX where it carries no loss
    supervised: Tensor | None  # [N] int64, indices into the flattened rows that carry loss, which spare a device synchronization; None: not known
    weights: Tensor | None  # [B, T] int32, the bits of float32 weights of the data, which `data_weights` reads; None: all are 1
    sequence_ids: Tensor  # [B, T] int64, the example of the micro-batch that a token belongs to
    ids: list[int]  # the index of each example in its split; empty for an empty micro-batch
    num_tokens: int  # tokens of this micro-batch that are not padding
    num_items_in_batch: int  # supervised tokens of the whole optimizer step, over micro-batches and ranks


def data_weights(batch: Batch, like: Tensor) -> Tensor | None:
    """``[B, T]`` what the loss's weights of a batch's tokens are multiplied by, with the dtype of ``like``; None: 1 everywhere."""
    return None if batch["weights"] is None else batch["weights"].view(torch.float32).to(like.dtype)


class Identity(Dataset):
    """Returns the micro-batch that it is asked for."""

    def __getitem__(self, item: MicroBatch) -> MicroBatch:
        return item


class EncodedExamples(Dataset):
    """Token ids of many examples in one flat array; ``examples[micro_batch]`` is a padded ``Batch``.

    Attributes:
        offsets: ``[n + 1]`` the start of each example in the flat arrays, and their length.
        tokens: Token ids.
        supervised: True for tokens whose prediction carries loss.
        noise: True for tokens of insertions.
        weights: Weights of the data for each token, float32; None where all are 1.
        lengths: ``[n]`` positions of each example, one less than its tokens.
        num_supervised: ``[n]`` supervised tokens of each example.
    """

    def __init__(self, encoded: Sequence[Encoded], pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        lengths = np.array([len(row.input_ids) for row in encoded], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = np.concatenate([row.input_ids for row in encoded]).astype(np.int32, copy=False)
        self.supervised = np.concatenate([row.supervised for row in encoded])
        self.noise = np.concatenate([row.noise for row in encoded])
        self.weights = join_weights(encoded)
        self.lengths = lengths - 1  # the last token is never an input
        self.num_supervised = np.add.reduceat(self.supervised, self.offsets[:-1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def content_hash(self) -> str:
        """Hash of all examples in their order: ``token_hash``, and weights if there are any."""
        if self.weights is None:
            return self.token_hash
        return hashlib.sha256(self.token_hash.encode() + np.ascontiguousarray(self.weights, dtype="<f4").tobytes()).hexdigest()

    @cached_property
    def token_hash(self) -> str:
        """Hash of what is scored, in its order: tokens, which of them are supervised, and which are noise if there is any."""
        digest = hashlib.sha256()
        arrays = [(self.offsets, "<i8"), (self.tokens, "<i4"), (self.supervised, "?")] + [(self.noise, "?")] * bool(self.noise.any())
        for array, dtype in arrays:
            digest.update(np.ascontiguousarray(array, dtype=dtype).data)
        return digest.hexdigest()

    def followed_by(self, other: "EncodedExamples") -> "EncodedExamples":
        """The concatenation of both."""
        both = copy(self)
        for name in ("content_hash", "token_hash"):
            vars(both).pop(name, None)
        both.offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        for name in ("tokens", "supervised", "noise", "lengths", "num_supervised"):
            setattr(both, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        if self.weights is not None or other.weights is not None:
            both.weights = np.concatenate([np.ones(len(one.tokens), np.float32) if one.weights is None else one.weights for one in (self, other)])
        return both

    def __getitem__(self, micro_batch: MicroBatch) -> Batch:
        ids = list(micro_batch.ids)
        widths = self.lengths[ids]
        packed = micro_batch.packed and bool(ids)
        rows, columns = (1, int(widths.sum())) if packed else (len(ids), int(widths.max(initial=0)))
        shape = (rows, columns) if ids else (1, 2)  # an empty micro-batch runs through the model like any other
        starts = np.cumsum(widths) - widths
        sequence = np.repeat(np.arange(len(ids)), widths)  # of each token
        position = np.arange(len(sequence)) - starts[sequence]
        source = self.offsets[ids][sequence] + position
        target = (np.zeros_like(sequence), np.arange(len(sequence))) if packed else (sequence, position)
        input_ids, labels = (np.full(shape, value, dtype=np.int64) for value in (self.pad_token_id, IGNORE_INDEX))
        input_ids[target] = self.tokens[source]
        labels[target] = np.where(self.supervised[source + 1], self.tokens[source + 1], IGNORE_INDEX)
        weights = None
        if self.weights is not None:
            weights = np.ones(shape, dtype=np.float32)
            weights[target] = self.weights[source + 1]
        sequence_ids = sequence[None] if packed else np.arange(shape[0])[:, None].repeat(shape[1], axis=1)
        boundaries = np.append(starts, columns).astype(np.int32)
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            packing=Packing(torch.from_numpy(position[None]), torch.from_numpy(boundaries), int(widths.max())) if packed else None,
            labels=torch.from_numpy(labels),
            supervised=torch.from_numpy(np.flatnonzero(labels != IGNORE_INDEX)),
            weights=None if weights is None else torch.from_numpy(weights.view(np.int32)),
            sequence_ids=torch.from_numpy(sequence_ids),
            ids=ids,
            num_tokens=int(widths.sum()),
            num_items_in_batch=micro_batch.num_items_in_batch,
        )
