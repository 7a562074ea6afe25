"""Encoded examples in one flat array, and the batches that are cut from it."""

from collections.abc import Sequence
from copy import copy
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.encoding import Encoded
from lit_talr.data.packing import Packing
from lit_talr.kernels.token_nll import IGNORE_INDEX


class Batch(TypedDict):
    """A micro-batch as the module sees it; position t predicts token t + 1. No floats: DeepSpeed rounds them to its own precision."""

    input_ids: Tensor  # [B, T] int64
    packing: Packing | None  # where the examples of a packed row lie; None for an example a row, padded on the right, which causal attention never sees
    labels: Tensor  # [B, T] int64, the token that position t predicts, IGNORE_INDEX where it carries no loss
    supervised: Tensor | None  # [N] int64, the places in flattened rows that carry loss, so that no device has to be waited for; None: to be searched for
    sequence_ids: Tensor  # [B, T] int64, which example of the micro-batch a token belongs to
    ids: list[int]  # the number of each example in its split; empty for an empty micro-batch
    num_tokens: int  # tokens of this micro-batch that are not padding
    num_items_in_batch: int  # supervised tokens of the whole optimizer step, over micro-batches and ranks


class Identity(Dataset):
    """Gives back what it is asked for."""

    def __getitem__(self, item: MicroBatch) -> MicroBatch:
        return item


class EncodedExamples(Dataset):
    """Token ids of many examples in one flat array; ``examples[micro_batch]`` is a padded ``Batch``."""

    def __init__(self, encoded: Sequence[Encoded], pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        lengths = np.array([len(row.input_ids) for row in encoded], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.tokens = np.concatenate([row.input_ids for row in encoded]).astype(np.int32, copy=False)
        self.supervised = np.concatenate([row.supervised for row in encoded])
        self.lengths = lengths - 1  # the last token is never an input
        self.num_supervised = np.add.reduceat(self.supervised, self.offsets[:-1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def followed_by(self, other: "EncodedExamples") -> "EncodedExamples":
        """Both, one after the other."""
        both = copy(self)
        both.offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        for name in ("tokens", "supervised", "lengths", "num_supervised"):
            setattr(both, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        return both

    def __getitem__(self, micro_batch: MicroBatch) -> Batch:
        ids = list(micro_batch.ids)
        widths = self.lengths[ids]
        packed = micro_batch.packed and bool(ids)
        rows, columns = (1, int(widths.sum())) if packed else (len(ids), int(widths.max(initial=0)))
        shape = (rows, columns) if ids else (1, 2)  # an empty one runs through the model like any other
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        position_ids, sequence = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        starts = np.cumsum(widths) - widths if packed else np.zeros_like(widths)
        for number, (index, first, width) in enumerate(zip(ids, starts.tolist(), widths.tolist(), strict=True)):
            start, stop = self.offsets[index], self.offsets[index + 1]
            place = (0 if packed else number, slice(first, first + width))
            tokens = self.tokens[start:stop]
            input_ids[place] = tokens[:-1]
            labels[place] = np.where(self.supervised[start + 1 : stop], tokens[1:], IGNORE_INDEX)
            position_ids[place] = np.arange(width)
            sequence[place if packed else number] = number
        boundaries = np.append(starts, columns).astype(np.int32)
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            packing=Packing(torch.from_numpy(position_ids), torch.from_numpy(boundaries), int(widths.max())) if packed else None,
            labels=torch.from_numpy(labels),
            supervised=torch.from_numpy(np.flatnonzero(labels != IGNORE_INDEX)),
            sequence_ids=torch.from_numpy(sequence),
            ids=ids,
            num_tokens=int(widths.sum()),
            num_items_in_batch=micro_batch.num_items_in_batch,
        )
