"""Builds the backbone that a run trains or tests, from the module's options and the trainer's strategy."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lit_talr.data.batch_plan import Batching
from lit_talr.domains.base import DomainDataModule
from lit_talr.kernels.token_nll import KEPT_BYTES
from lit_talr.losses.base import LossStrategy
from lit_talr.modeling.adapters import Adapter
from lit_talr.modeling.backbone import Backbone, compile_layers, use_liger_layers
from lit_talr.modeling.families import check_packing
from lit_talr.modeling.head import HeadKernel
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.sharded import empty_model, exact_buffers, exact_masters, load_shards, parts_of_flat, parts_of_weights, shard, zero3_drawing
from lit_talr.modeling.strategies import FSDP2Strategy, is_deepspeed, is_zero3, shards_weights
from lit_talr.training.base_model import compute_dtype, mixed_dtype
from lit_talr.training.fisher import Fisher, fisher_losses, owned_fisher
from lit_talr.training.parts import PartsOptimizer
from lit_talr.utils.errors import check_least
from lit_talr.utils.identity import WeightsIdentity, folder_weights
from lit_talr.utils.score import digest
from lit_talr.utils.waiting import on_rank_zero
from lit_talr.utils.weight_files import model_folder, weight_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compute:
    """How the model is computed: speed and memory, not the gradient.

    Args:
        attention: Attention implementation of transformers, such as ``sdpa``, ``eager`` or ``flash_attention_2``; transformers chooses by default.
        head_kernel: Function for the NLL and its gradient in training: ``own`` (this package's), ``torch`` (``linear_cross_entropy``, without half
            precision) or ``liger`` (on Hopper GPUs in bf16).
        kept_logits: Bytes of a micro-batch's logits (4 for each supervised token and vocabulary entry) up to which ``own`` keeps them for the gradient.
            Larger ones are computed twice. A soft-cap forbids keeping them.
        liger_layers: Use Liger's fused norms, MLPs and rotary positions, on GPUs.
        gradient_checkpointing: Recompute layers in backward to save memory.
        checkpoint_every: Recompute every n-th layer only, at least 1 (all of them).
        compile_layers: Compile each layer of the decoder (``torch.compile``), once for all row lengths.

    Raises:
        ValueError: For a value out of range, and for options that exclude each other.
    """

    attention: str | None = None
    head_kernel: HeadKernel = "own"
    kept_logits: int = KEPT_BYTES
    liger_layers: bool = False
    gradient_checkpointing: bool = False
    checkpoint_every: int = 1
    compile_layers: bool = False

    def __post_init__(self) -> None:
        if self.head_kernel not in get_args(HeadKernel):
            raise ValueError(f"`model.compute.head_kernel` must be one of {', '.join(get_args(HeadKernel))}, got {self.head_kernel!r}.")
        check_least("model.compute.kept_logits", self.kept_logits, 0, "it is a number of bytes, and 0 keeps none")
        check_least("model.compute.checkpoint_every", self.checkpoint_every, 1, "1 recomputes every layer")
        if self.checkpoint_every > 1 and not self.gradient_checkpointing:
            raise ValueError(
                "`model.compute.checkpoint_every` says which layers `model.compute.gradient_checkpointing` recomputes; set that too, or leave it out."
            )
        if self.compile_layers and self.liger_layers:
            raise ValueError("`model.compute.compile_layers` and `model.compute.liger_layers` exclude each other; leave one out.")


class Source(NamedTuple):
    """Where weights come from: a pretrained model, or an architecture with random weights."""

    pretrained: str | None
    revision: str | None
    architecture: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        """The local folder of the pretrained model."""
        assert self.pretrained is not None
        return model_folder(self.pretrained, self.revision)

    def weights(self, trainer: Trainer) -> WeightsIdentity:
        """Identifies the weights, before they are loaded. Collective."""
        if self.pretrained is None:
            return WeightsIdentity(None, digest(self.architecture, torch.initial_seed()), 0)
        weight_files(self.folder)  # on every rank, so that all of them refuse
        return on_rank_zero(trainer, lambda: folder_weights(self.folder), f"reads {self.folder}")


def build_backbone(
    trainer: Trainer, source: Source, compute: Compute, adapter: Adapter | None, vocab_size: int, batching: Batching, exact: bool = False
) -> Backbone:
    """Loads or draws the weights, and prepares the model for the trainer's strategy.

    Args:
        trainer: Knows strategy, precision and whether the model is trained.
        source: Where weights come from.
        compute: How the model is computed.
        adapter: Trained in place of the weights.
        vocab_size: Size of the tokenizer's vocabulary.
        batching: Whether rows are packed.
        exact: Keep frozen weights in the dtype of trained ones, so that they can be scored in it.

    Raises:
        ValueError: For a head smaller than the tokenizer, and for a kernel or attention that cannot do what is asked.
    """
    strategy, fits = trainer.strategy, trainer.state.fn == "fit"
    model = load_weights(trainer, source, compute, adapter is not None and not exact, vocab_size)
    if compute.liger_layers:
        use_liger_layers(model)
    if is_zero3(strategy):
        exact_buffers(model)
    if is_deepspeed(strategy) and adapter is not None:
        strategy.exclude_frozen_parameters = True  # from its checkpoints, as Backbone does
    backbone = Backbone(model, adapter, compute.head_kernel, compute.kept_logits)
    if backbone.head.out_features < vocab_size:
        raise ValueError(f"The tokenizer has {vocab_size} tokens, the model's head {backbone.head.out_features}; give the model's own tokenizer.")
    if batching.packing:
        check_packing(model.config)
    if compute.gradient_checkpointing:
        recompute_layers(backbone, compute.checkpoint_every)
    if compute.compile_layers and fits:
        compile_layers(backbone.decoder)
    if isinstance(strategy, FSDP2Strategy):
        shard(backbone, backbone.decoder.layers, strategy.device_mesh["data_parallel"], mixed_dtype(trainer))  # type: ignore[arg-type]
    if shards_weights(strategy) and source.pretrained:
        load_shards(model, source.folder, strategy.root_device)
    return backbone


def load_weights(trainer: Trainer, source: Source, compute: Compute, rounds: bool, vocab_size: int) -> PreTrainedModel:
    """Loads or draws a model, rounded to the dtype of the forward pass if asked; one that no rank holds whole stays empty until it is sharded."""
    strategy = trainer.strategy
    if shards_weights(strategy) and source.pretrained:
        return empty_model(source.folder, compute.attention, None, is_zero3(strategy))
    frozen = mixed_dtype(trainer) if rounds else None  # frozen weights need no more precision than the forward reads
    with zero3_drawing(strategy):
        return load_model(*source, vocab_size, compute.attention, frozen)


def recompute_layers(backbone: Backbone, every: int) -> None:
    """Switches gradient checkpointing on for every n-th layer."""
    backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    for index, layer in enumerate(backbone.decoder.layers):  # type: ignore[arg-type]
        layer.gradient_checkpointing = index % every == 0


def say_positions(backbone: Backbone, data: DomainDataModule, max_new_tokens: int) -> None:
    """Warns of rows, and of prompts with their responses, of more tokens than the model was made for, at whose ends it may know nothing."""
    if not (most := getattr(backbone.config, "max_position_embeddings", None)):
        return
    positions = f"more than the {most:,} positions of the model (`max_position_embeddings` in its config.json), beyond which it was not trained"
    if (longest := max((int(encoded.lengths.max()) for encoded in data.encoded.values()), default=0)) > most:
        rank_zero_only(logger.warning)(
            f"`data.encoding.max_length`: the longest row has {longest:,} tokens, {positions}; set it to at most that, and `data.encoding.too_long` says what "
            "becomes of longer rows."
        )
    if (prompt := max(map(len, chain.from_iterable(data.prompts.values())), default=0)) and prompt + max_new_tokens > most:
        rank_zero_only(logger.warning)(
            f"`model.generation.max_new_tokens`: the longest prompt has {prompt:,} tokens, and with {max_new_tokens:,} new ones that is {positions}; "
            + (f"set it to at most {most - prompt:,}." if prompt < most else f"set `data.encoding.max_length` to less than {most:,}, and it to the rest.")
        )


def try_head_kernel(trainer: Trainer, backbone: Backbone, needs: frozenset[str]) -> None:
    """Refuses a third-party kernel that cannot compute what the loss needs, before the first step.

    Raises:
        ValueError: With the way out.
    """
    if backbone.head.kernel != "own":
        backbone.head.try_kernel(trainer.strategy.root_device, compute_dtype(trainer), "entropy" in needs, "top_entropy" in needs)


def tell_parts(optimizer: Optimizer, trainer: Trainer, module: nn.Module, loss: LossStrategy, fishers: Sequence[Fisher]) -> None:
    """Tells a new optimizer and a loss that look at whole parameters where they lie, also once DeepSpeed has replaced them by flat tensors.

    Args:
        optimizer: Of the module's trained weights.
        trainer: With its strategy.
        module: Has the backbone.
        loss: The loss.
        fishers: What its parts that need a Fisher information get, in their order.
    """
    trained = {name.removeprefix("backbone."): weight for name, weight in module.named_parameters() if weight.requires_grad}
    weights, is_flat = list(trained.values()), is_deepspeed(trainer.strategy)
    if isinstance(optimizer, PartsOptimizer):
        optimizer.name_parameters(list(trained))
        if is_flat:
            optimizer.split(lambda: parts_of_flat(weights, trainer.optimizers[0]))
    for ewc, fisher in zip(fisher_losses(loss), fishers, strict=True):
        ewc.fisher = owned_fisher(fisher, list(trained), lambda: parts_of_flat(weights, trainer.optimizers[0]) if is_flat else parts_of_weights(weights))


def restore_masters(trainer: Trainer, backbone: Backbone, source: Source) -> None:
    """Gives DeepSpeed's fp32 masters the exact pretrained weights; it made them from rounded ones. Collective."""
    if is_deepspeed(trainer.strategy) and mixed_dtype(trainer) and source.pretrained:
        exact_masters(backbone.model, source.folder)
