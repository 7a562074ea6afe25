"""Facts of small runs."""

from functools import cache, partial
from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from lit_talr.data.batch_plan import Batching
from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import Memory, Model, memory_of, read_model
from lit_talr.losses import Standard
from lit_talr.modeling.loading import new_config
from lit_talr.training.building import Compute

SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500}
AdamW = partial(torch.optim.AdamW, lr=1e-3, fused=True)


def shape(kind: str = "qwen3", layers: int = 2, tied: bool = True) -> dict[str, Any]:
    return {"model_type": kind, "num_hidden_layers": layers, "tie_word_embeddings": tied, **SHAPE}


def facts(architecture: dict[str, Any] | None = None, **changes: Any) -> Facts:
    plain = {"compute": Compute(), "adapter": None, "loss": Standard(), "optimizer": AdamW, "precision": "32-true", "strategy": SingleDeviceStrategy()}
    plain |= {"ranks": 1, "batching": Batching(2, 2), "length": 32, "supervised": 0.5, "new_tokens": 16, "gpu": False}
    return Facts(new_config(architecture or shape(), 0), **{**plain, **changes})


def memory(architecture: dict[str, Any] | None = None, **changes: Any) -> Memory:
    run = facts(architecture, **changes)
    return memory_of(run, read_model(run))


@cache
def plain_model() -> Model:
    return read_model(facts())
