"""The starting model's NLL of every training token: computed once, kept by content."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from lit_talr.data.batch_plan import Batching, BatchPlan
from lit_talr.data.encoded import Batch, EncodedExamples
from lit_talr.modeling.backbone import Backbone, load_model
from lit_talr.modeling.sharded import empty_model, load_shards, shard
from lit_talr.modeling.strategies import shards_weights
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.files import write_bytes
from lit_talr.utils.weight_files import fingerprint, model_folder, weight_files

logger = logging.getLogger(__name__)
FORMAT = 2
"""Part of every key; to be raised when the same content would give other numbers."""


class BaseNLL(NamedTuple):
    """Of all supervised tokens of a split, one example after the other."""

    nll: Tensor  # [N] float32, memory-mapped
    starts: np.ndarray  # [n + 1] int64, where the tokens of each example begin
    key: str  # what it is of: weights, rows as tokens, precision

    def of(self, batch: Batch, like: Tensor, mask: Tensor) -> Tensor:
        """``[B, T]`` NLLs of a batch's supervised tokens, of the dtype and device of ``like``, 0 elsewhere.

        Looked up by the numbers of the examples: DeepSpeed would round a float tensor that came with the batch.
        """
        parts = [self.nll[self.starts[index] : self.starts[index + 1]] for index in batch["ids"]]
        return torch.zeros_like(like).masked_scatter(mask, torch.cat([self.nll[:0], *parts]).to(like))


class BaseModel(NamedTuple):
    """Where it is, and how it is run."""

    pretrained: str
    revision: str | None
    attention: str | None
    dtype: torch.dtype | None  # of its weights, where training casts them (an engine, LoRA); else the trainer's

    def load(self, trainer: Trainer) -> Backbone:
        """On the device, in evaluation mode; where training shards its weights, sharded over the ranks by FSDP2, under ZeRO-3 too. Collective."""
        device = trainer.strategy.root_device
        with trainer.precision_plugin.module_init_context():
            if not shards_weights(trainer.strategy):
                return Backbone(load_model(self.pretrained, self.revision, None, 0, self.attention, self.dtype)).to(device).eval()
            folder = model_folder(self.pretrained, self.revision)
            model = empty_model(folder, self.attention, self.dtype, zero3=False)
            backbone = Backbone(model)
            shard(backbone, backbone.decoder.layers, init_device_mesh(device.type, (trainer.world_size,)), None)  # type: ignore[arg-type]
            load_shards(model, folder, device)
        return backbone.eval()


def load_base_nll(trainer: Trainer, encoded: EncodedExamples, batching: Batching, start: BaseModel) -> BaseNLL:
    """The NLLs of a split under the starting model, whatever weights are being trained; read, or else computed in parallel over the ranks. Collective.

    Kept in ``.cache/`` beside the run folder, so that runs side by side share it, under the hash of all that it depends on: weight files and
    configuration, the rows as tokens (thus tokenizer, template, ``max_length``, target) and the precision of the forward. A kept one is checked whole.
    Where it cannot be kept, the run goes on without.
    """
    starts = np.concatenate([[0], np.cumsum(encoded.num_supervised)])
    key = content_key(encoded, f"{FORMAT} {weights_hash(trainer, start.pretrained, start.revision)} {trainer.precision} {start.dtype} {start.attention}")
    path = Path(trainer.default_root_dir).resolve().parent / ".cache" / f"{key[:32]}.safetensors"
    problem = trainer.strategy.broadcast(why_not(path, key, int(starts[-1])) if trainer.is_global_zero else None)
    if problem is None:
        rank_zero_only(logger.info)(f"NLL under the starting model: read from {path}.")
        return BaseNLL(read(path), starts, key)
    if path.exists():
        rank_zero_only(logger.info)(f"NLL under the starting model: {path} {problem}; it is computed again.")
    nll = compute(trainer, encoded, batching, start)
    torch.cuda.empty_cache()  # its model is gone, and another is about to be loaded
    kept = trainer.strategy.broadcast(write(path, key, start.pretrained, nll) if trainer.is_global_zero else None)
    return BaseNLL(read(path) if kept else nll, starts, key)


def weights_hash(trainer: Trainer, pretrained: str, revision: str | None) -> str:
    """Of the starting model's configuration and weights, read by one rank. Collective."""
    folder = model_folder(pretrained, revision)
    weight_files(folder)  # this and the above on every rank, so that all of them refuse
    return trainer.strategy.broadcast(fingerprint(folder) if trainer.is_global_zero else "")


def content_key(encoded: EncodedExamples, model: str) -> str:
    digest = hashlib.sha256(model.encode())
    for array in (encoded.offsets, encoded.tokens, encoded.supervised):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def why_not(path: Path, key: str, num_tokens: int) -> str | None:
    """What is wrong with what is kept; None if it can be used."""
    try:
        with safe_open(path, framework="pt") as file:
            about, nll = file.metadata() or {}, file.get_tensor("nll")
    except (OSError, SafetensorError):
        return "is not whole"
    if about.get("key") != key or nll.shape != (num_tokens,) or nll.dtype != torch.float32:
        return "is of another model or other rows"
    return None if about.get("sha256") == checksum(nll) else "is not what was written"


def read(path: Path) -> Tensor:
    """Memory-mapped."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("nll")


def checksum(nll: Tensor) -> str:
    return hashlib.sha256(nll.numpy().data).hexdigest()


def write(path: Path, key: str, pretrained: str, nll: Tensor) -> bool:
    """Whether it could be kept."""
    try:
        write_bytes(path, save({"nll": nll}, {"key": key, "model": pretrained, "sha256": checksum(nll)}))
    except OSError as error:
        logger.warning(f"NLL under the starting model: {len(nll):,} tokens, could not be kept ({error}); this run goes on, the next one computes them again.")
        return False
    logger.info(f"NLL under the starting model: {len(nll):,} tokens, kept in {path}.")
    return True


def compute(trainer: Trainer, encoded: EncodedExamples, batching: Batching, start: BaseModel) -> Tensor:
    """``[N]`` float32 on the CPU: a forward over all examples by a model of its own, in evaluation mode, in the precision of training."""
    backbone = start.load(trainer)
    if batching.packing:
        backbone.check_packing()

    def forward(batch: Batch) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return backbone(batch["input_ids"], batch["labels"], batch["packing"], batch["supervised"]).nll

    return score(forward, encoded, np.arange(len(encoded)), batching, trainer, "NLL under the starting model").float().cpu()


def score(
    forward: Callable[[Batch], Tensor], encoded: EncodedExamples, ids: np.ndarray, batching: Batching, trainer: Trainer, title: str | None = None
) -> Tensor:
    """``[number of supervised tokens]`` NLLs of some examples, one after the other, on every rank; each is scored on one. Collective.

    Args:
        forward: Gives the NLLs ``[B, T]`` of a batch that lies on the device.
        encoded: The examples.
        ids: Which of them, in this order.
        batching: How many run at once.
        trainer: Knows ranks and device.
        title: Of a progress bar, shown if given.
    """
    num_tokens = encoded.num_supervised[ids]
    starts = np.concatenate([[0], np.cumsum(num_tokens)])
    plan = BatchPlan(encoded.lengths[ids], num_tokens, batching, world_size=trainer.world_size, rank=trainer.global_rank, shuffle=False)
    together = shards_weights(trainer.strategy)  # then all ranks run as many, and the plan has as many on each
    nll: Tensor | None = None
    micro_batches = track(plan, title or "", len(plan), transient=True, console=Console(stderr=True), disable=not title or not trainer.is_global_zero)
    with torch.no_grad():
        for micro_batch in micro_batches:
            if not (micro_batch.ids or together or nll is None):
                continue
            batch = encoded[micro_batch._replace(ids=tuple(ids[list(micro_batch.ids)].tolist()))]
            mask = batch["labels"] >= 0
            found = forward(trainer.strategy.batch_to_device(batch))
            nll = found.new_zeros(int(starts[-1])) if nll is None else nll
            places = [np.arange(starts[number], starts[number + 1]) for number in micro_batch.ids]
            if places:
                nll[torch.from_numpy(np.concatenate(places)).to(nll.device)] = found[mask.to(found.device)]
    assert nll is not None
    return sum_over_ranks(nll)
