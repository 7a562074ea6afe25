"""Memory of a rank by part."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.trace import Live, LiveBytes, build, run_step
from lit_talr.losses.anchored import Anchored
from lit_talr.losses.ewc import EWC
from lit_talr.modeling.strategies import is_zero3, splits_optimizer
from lit_talr.training.parts import PartsOptimizer
from lit_talr.training.supported import check_optimizer, offloads

BUCKET = 200_000_000
"""Elements of a reduction bucket of DeepSpeed, as Lightning sets it; there are two, since communication overlaps."""
LIVE_WEIGHTS = 1_000_000_000
"""Most gathered weights that ZeRO-3 holds (``stage3_max_live_parameters``)."""
SMALL = 4096
"""Elements of a tensor from which 8-bit optimizers quantize its state."""


class Model(NamedTuple):
    """A model and its step on one micro-batch, whole. Numbers of weights, tied ones once, and bytes."""

    trained: int
    frozen: int
    largest: int  # of the trained tensors
    layer: int  # of a decoder's layer
    root: int  # outside of the layers: embeddings, head
    held: float  # bytes of all weights and buffers, as forward reads them
    gradients: float  # bytes of all
    state: float  # bytes of the optimizer's state of all
    spare: float  # bytes that the optimizer's step makes for each element of a tensor
    peaks: dict[str, Live]  # of forward and backward
    flops: float  # operations, recomputation and a running base model included


class Memory(NamedTuple):
    """Bytes on a rank. All but ``gradients`` and ``cache`` add up to the peak."""

    weights: float
    gradients: float  # all of them
    optimizer: float  # with masters
    base: float  # copy or anchors, and Fisher information
    engine: float  # buckets and gathered weights
    moment: str  # of the peak
    live: Live  # what the step holds then; its gradients are this rank's
    cache: float  # keys and values in ``test``

    @property
    def peak(self) -> float:
        return self.weights + self.optimizer + self.base + self.engine + sum(self.live)


def read_model(facts: Facts) -> Model:
    """Makes the model without values, counts it, and runs a step.

    Raises:
        ValueError: For a model whose step cannot be run without values.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone = build(facts)
        weights, layers = list(backbone.parameters()), backbone.decoder.layers
        trained = [weight for weight in weights if weight.requires_grad]
        inside = elements(layers.parameters())  # type: ignore[union-attr,operator]
        step = run_step(facts, backbone, gradient_share(facts))
        held, gradients = (float(sum(tensor.nbytes for tensor in tensors)) for tensors in ((*weights, *backbone.buffers()), trained))
    sizes = elements(trained), elements(weights) - elements(trained), max(map(torch.numel, trained))
    return Model(*sizes, inside // len(layers), elements(weights) - inside, held, gradients, *optimizer_bytes(facts, trained), step.peaks, step.flops)  # type: ignore[arg-type]


def elements(tensors: Iterable[Tensor]) -> int:
    return sum(map(torch.numel, tensors))


def optimizer_bytes(facts: Facts, weights: Sequence[Tensor]) -> tuple[float, float]:
    """Bytes of the optimizer's state for all of these weights, which have no values, and bytes that its step makes for each element of a tensor.

    A real optimizer steps two small matrices and a vector; the state of a tensor is a constant plus a multiple of its size.
    """
    dtype = torch.float32 if facts.owned_itemsize == 4 else facts.half
    small = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((64, 64), (64, 128), (64,))]
    optimizer = facts.optimizer(small)
    check_optimizer(optimizer, Namespace(strategy=facts.strategy))  # type: ignore[arg-type]
    if isinstance(optimizer, PartsOptimizer):
        optimizer.name_parameters([f"layers.0.mlp.{name}.weight" for name in ("up_proj", "down_proj", "norm")])
    for weight in small:
        weight.grad = torch.zeros_like(weight)
    with torch.random.fork_rng(devices=()), LiveBytes(small) as live:
        optimizer.step()
    one, two, vector = (sum(tensor_bytes(value) for value in optimizer.state[weight].values() if isinstance(value, Tensor)) for weight in small)
    spare = max(0.0, live.peaks.get("forward", Live()).activations - one - two - vector) / small[1].numel()
    slope, sizes = (two - one) / SMALL, [(weight.numel(), weight.dim() > 1 and weight.numel() >= SMALL) for weight in weights]
    return sum(one + slope * (size - SMALL) if is_large else vector % 64 + vector // 64 * size for size, is_large in sizes), spare


def tensor_bytes(value: Tensor) -> int:
    """Bytes of a tensor, also of one that is made of others, such as an 8-bit one with its scales."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.nbytes


def anchors(facts: Facts) -> int:
    """Copies of the owned weights that penalties keep: the base's, and for EWC the Fisher information."""
    return sum(1 + isinstance(part, EWC) for part in facts.loss.modules() if isinstance(part, Anchored) and part.coefficient > 0)


def gradient_share(facts: Facts) -> float:
    """The part of the bytes of backward's gradients that stays on a rank; FSDP2 reduces them to the dtype of its weights."""
    split = facts.ranks if facts.engine in ("ZeRO-2", "ZeRO-3", "FSDP2") else 1
    return (facts.owned_itemsize / facts.itemsize if facts.engine == "FSDP2" else 1) / split


def memory_of(facts: Facts, model: Model) -> Memory:
    """Adds up the parts of a rank, by the arithmetic of the strategy (docs/scaling.md).

    Args:
        facts: Of the run.
        model: Read for the same run; the moment of its peaks is that of the same number of ranks.
    """
    strategy: Any = facts.strategy
    engine, ranks, share, size, owned = facts.engine, facts.ranks, gradient_share(facts), facts.itemsize, facts.owned_itemsize
    split = ranks if splits_optimizer(strategy) else 1
    held, number, buckets = model.held, model.trained + model.frozen, 0.0
    optimizer, anchored, temporary = model.state / split, anchors(facts) * float(owned) * model.trained / split, model.spare * model.largest / split
    base = held if facts.runs_base and facts.adapter is None else 0.0
    if engine == "DDP":
        buckets = 0.0 if strategy._ddp_kwargs.get("gradient_as_bucket_view") else model.gradients
    elif engine == "FSDP2":
        held = float(owned) * number / ranks
        buckets = size * (model.root + 2.0 * model.layer) + (size + owned) * max(model.layer, model.root)
    elif engine != "one process":
        masters = 4.0 * model.trained / ranks if facts.half else 0.0
        optimizer, buckets, temporary = optimizer + masters, 2.0 * BUCKET * size, masters + model.spare * model.trained / ranks
        if is_zero3(strategy):
            offload = (strategy.config or {}).get("zero_optimization", {}).get("offload_param") or {}
            held = held / ranks if offload.get("device", "none") == "none" else 0.0
            buckets += size * float(min(number, LIVE_WEIGHTS))
        if offloads(strategy):
            optimizer = temporary = anchored = 0.0
    peaks = {**model.peaks, "optimizer's step": Live(temporary, 0.0, model.gradients)}
    if split > 1 and facts.micro_batches > 1:
        peaks = {moment: peak._replace(gradients=model.gradients) for moment, peak in peaks.items()}
    moment, live = max(((moment, peak._replace(gradients=share * peak.gradients)) for moment, peak in peaks.items()), key=lambda item: sum(item[1]))
    return Memory(held, share * model.gradients, optimizer, base + anchored, buckets, moment, live, cache_bytes(facts))


def cache_bytes(facts: Facts) -> float:
    """Keys and values of a batch of prompts with their responses; sliding windows are not subtracted."""
    text: Any = facts.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tokens = facts.batching.eval_batch_size * (facts.length + facts.new_tokens)
    return 2.0 * text.num_hidden_layers * heads * width * facts.itemsize * tokens
