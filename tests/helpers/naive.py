"""A training loop without Lightning and without this package's step: whole batches, one process, cross-entropy from all logits."""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from lit_talr.data.batch_plan import epoch_order
from lit_talr.modeling.loading import load_model
from tests.helpers.fits import BATCH_SIZE, records

Step = Callable[[int, float, Optimizer], None]
"""Called with the step's number, its mean NLL and the optimizer, when gradients are there."""


def loop(folder: Path, steps: int, make: Callable[[list[tuple[str, Tensor]]], Optimizer], before_step: Step, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights after some steps over the rows that ``fit`` trains on, in the order that seed 0 gives them."""
    data = records(folder)
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.encode("train")
    rows = data.encoded["train"]
    torch.set_default_dtype(dtype)
    model = load_model(str(folder / "model"), None, None, 0, None)
    torch.set_default_dtype(torch.float32)
    optimizer = make(list(model.named_parameters()))
    per_epoch = -(-len(rows.lengths) // BATCH_SIZE)
    for step in range(steps):
        epoch, index = divmod(step, per_epoch)
        ids = epoch_order(len(rows.lengths), 0, epoch, True)[index * BATCH_SIZE : (index + 1) * BATCH_SIZE].tolist()
        total, number = torch.zeros((), dtype=dtype), 0
        for row in ids:
            part = slice(rows.offsets[row], rows.offsets[row + 1])
            tokens = torch.as_tensor(rows.tokens[part].astype("int64"))
            learned = torch.as_tensor(rows.supervised[part])[1:]
            logits = model(tokens[None]).logits[0, :-1]
            total = total + functional.cross_entropy(logits[learned], tokens[1:][learned], reduction="sum")
            number += int(learned.sum())
        optimizer.zero_grad()
        (total / number).backward()
        before_step(step, total.item() / number, optimizer)
        optimizer.step()
    return {name: weight.detach() for name, weight in model.named_parameters()}
