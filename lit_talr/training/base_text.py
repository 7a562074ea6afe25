"""Text that the starting model writes, and what it was in while it did: sampled once, kept by content."""

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lit_talr.theory.drift import sample
from lit_talr.theory.walk import check_context
from lit_talr.training.base_model import BaseModel
from lit_talr.utils.files import write_bytes

logger = logging.getLogger(__name__)
FORMAT = 1
"""Part of every key; to be raised when the same content would give other numbers."""
ROWS = 32
"""Sequences that run at once."""


class BaseText(NamedTuple):
    """What the starting model wrote, and what it was in while it did."""

    tokens: Tensor  # [S, T + 1] int64, the first of each row given
    hidden: Tensor  # [S, T, D], its decoder's output at all but the last token


def base_text(trainer: Trainer, model: BaseModel, start: int, num_sequences: int, length: int, seed: int) -> BaseText:
    """What the starting model writes; read, or else sampled by one rank and kept. Where it cannot be kept, the run goes on without. Collective."""
    weights = model.weights_hash(trainer)
    about = f"{FORMAT} {weights} {trainer.precision} {model.dtype} {model.attention} {start} {num_sequences} {length} {seed}"
    key = hashlib.sha256(about.encode()).hexdigest()
    path = Path(trainer.default_root_dir).resolve().parent / ".cache" / f"drift-{key[:32]}.safetensors"
    if trainer.strategy.broadcast(trainer.is_global_zero and is_whole(path, key)):
        return read(path)
    text = written(trainer, model, start, num_sequences, length, seed) if trainer.is_global_zero else None
    kept = trainer.strategy.broadcast(text is not None and write(path, key, text))
    text = read(path) if kept else trainer.strategy.broadcast(text)
    assert text is not None
    return text


def written(trainer: Trainer, model: BaseModel, start: int, num_sequences: int, length: int, seed: int) -> BaseText:
    """By a model of its own, in the precision of training, on the CPU afterwards; not collective."""
    backbone = model.load(trainer)
    check_context(backbone.model, length)
    generator, device = torch.Generator().manual_seed(seed), trainer.strategy.root_device
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        tokens = sample(backbone.model, start, num_sequences, length, generator)
        parts = [backbone.base_logits(rows).hidden for rows in tokens[:, :-1].to(device).split(ROWS)]
    text = BaseText(tokens, torch.cat(parts).cpu())
    del backbone, parts
    torch.cuda.empty_cache()
    return text


def is_whole(path: Path, key: str) -> bool:
    """Whether what is kept was kept for this, and is what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            return about.get("key") == key and about.get("sha256") == checksum(BaseText(file.get_tensor("tokens"), file.get_tensor("hidden")))
    except (OSError, SafetensorError):
        return False


def read(path: Path) -> BaseText:
    """Memory-mapped."""
    with safe_open(path, framework="pt") as file:
        return BaseText(file.get_tensor("tokens"), file.get_tensor("hidden"))


def checksum(text: BaseText) -> str:
    digest = hashlib.sha256()
    for part in text:
        digest.update(part.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: Path, key: str, text: BaseText) -> bool:
    """Whether it could be kept."""
    try:
        write_bytes(path, save(text._asdict(), {"key": key, "sha256": checksum(text)}))
    except OSError as error:
        logger.warning(f"Text of the starting model: could not be kept ({error}); this run goes on, the next one samples it again.")
        return False
    rank_zero_only(logger.info)(f"Text of the starting model: {text.hidden.shape[0]} sequences of {text.hidden.shape[1]} tokens, kept in {path}.")
    return True
