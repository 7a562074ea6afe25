"""The base model: the one that training starts from."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from torch.distributed.device_mesh import init_device_mesh

from lit_talr.modeling.arithmetic import Arithmetic, arithmetic_name, forward_context, weights_dtype
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.sharded import empty_model, load_shards, shard
from lit_talr.modeling.strategies import shards_weights, splits_optimizer
from lit_talr.utils.waiting import on_rank_zero
from lit_talr.utils.weight_files import fingerprint, model_folder, weight_files


class BaseModel(NamedTuple):
    """Where the base model is, and how it is run."""

    pretrained: str  # folder or hub name
    revision: str | None
    attention: str | None
    dtype: torch.dtype | None  # of its weights where training rounds them (an engine, adapters); else the trainer's
    arithmetic: Arithmetic = "training"  # what it is run in

    def scored_in(self, trainer: Trainer, arithmetic: Arithmetic) -> "BaseModel":
        """The same model, run in the arithmetic of scores."""
        return self._replace(dtype=weights_dtype(trainer, arithmetic) or self.dtype, arithmetic=arithmetic)

    def forward_context(self, trainer: Trainer) -> AbstractContextManager[None]:
        """The block that it is run in."""
        return forward_context(trainer, self.arithmetic)

    def load(self, trainer: Trainer) -> Backbone:
        """Loads it onto the device in evaluation mode. Every rank must call it.

        Where training shards its weights, FSDP2 shards these over the ranks, also under ZeRO-3.
        """
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

    def weights_hash(self, trainer: Trainer) -> str:
        """The hash of its configuration and weights, read by one rank. Collective."""
        folder = model_folder(self.pretrained, self.revision)
        weight_files(folder)  # on every rank, as the line above, so that all of them refuse
        return on_rank_zero(trainer, lambda: fingerprint(folder), f"reads {folder}")

    def identity(self, trainer: Trainer) -> str:
        """Everything about it that its outputs depend on, for the keys of caches. Collective."""
        return f"{self.weights_hash(trainer)} {trainer.precision} {arithmetic_name(trainer, self.arithmetic)} {self.dtype} {self.attention}"


def base_dtype(trainer: Trainer, adapter: bool) -> torch.dtype | None:
    """The dtype of the base's weights, where it is not the trainer's default."""
    return mixed_dtype(trainer) if adapter or splits_optimizer(trainer.strategy) else None


def mixed_dtype(trainer: Trainer) -> torch.dtype | None:
    """The dtype that mixed precision multiplies in."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(trainer.precision))


def compute_dtype(trainer: Trainer) -> torch.dtype:
    """The dtype that matrices are multiplied in."""
    whole = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
    return mixed_dtype(trainer) or whole.get(str(trainer.precision), torch.float32)
