"""Memory of a rank by part."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.trace import Live, Step, build, fake, trace
from lit_talr.losses.anchored import Anchored
from lit_talr.losses.ewc import EWC
from lit_talr.training.parts import PartsOptimizer

BUCKET = 200_000_000
"""Elements of a reduction bucket of DeepSpeed, as Lightning sets it; there are two, since communication overlaps."""
LIVE_WEIGHTS = 1_000_000_000
"""Most gathered weights that ZeRO-3 holds (``stage3_max_live_parameters``)."""


class Counts(NamedTuple):
    """Numbers of weights, and what products with matrices need."""

    trained: int
    frozen: int
    largest: int  # of the trained tensors
    layer: int  # of a decoder's layer
    root: int  # outside of the layers: embeddings, head
    matrices: int  # that a token is multiplied with, without the head
    trained_matrices: int
    head: int
    head_trained: bool


class Memory(NamedTuple):
    """Bytes on a rank. The first six add up, with the part of the gradients and activations that is there at the peak, to the peak."""

    weights: float
    optimizer: float
    base: float  # copy or anchors, and Fisher information
    engine: float  # buckets and gathered weights
    gradients: float  # all of them
    activations: float  # at the peak, with the head
    head: float  # the head's part of these
    kept: float  # activations that forward leaves for backward
    peak: float
    moment: str  # of the peak
    cache: float  # keys and values in ``test``
    test: float  # peak there


def count(backbone: Any) -> Counts:
    """Counts weights; tied ones once."""
    weights = list(backbone.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    layers = backbone.decoder.layers
    inside = [weight for layer in layers for weight in layer.parameters() if weight.dim() > 1]
    total = lambda tensors: sum(tensor.numel() for tensor in tensors)  # noqa: E731
    whole, in_layers = total(weights), total(layers.parameters())
    matrices, learned = total(inside), total(weight for weight in inside if weight.requires_grad)
    largest = max((weight.numel() for weight in trained), default=0)
    head = backbone.head.weight
    counts = total(trained), whole - total(trained), largest, ceil(in_layers / len(layers)), whole - in_layers
    return Counts(*counts, matrices, learned, head.numel(), head.requires_grad)


def state_bytes(facts: Facts, weights: list[Tensor]) -> float:
    """Bytes of the optimizer's state for all of these weights, which have no values.

    A real optimizer steps two small matrices and a vector; the state of a tensor is a constant plus a multiple of its size.
    """
    dtype = torch.float32 if facts.engine.startswith(("ZeRO", "FSDP2")) else weights[0].dtype
    small = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((64, 64), (64, 128), (64,))]
    optimizer = facts.optimizer(small)
    if isinstance(optimizer, PartsOptimizer):
        optimizer.name_parameters([f"layers.0.mlp.{name}.weight" for name in ("up_proj", "down_proj", "norm")])
    for weight in small:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    one, two, vector = (sum(tensor_bytes(value) for value in optimizer.state[weight].values() if isinstance(value, Tensor)) for weight in small)
    slope = (two - one) / (64 * 64)
    matrices = [weight.numel() for weight in weights if weight.dim() > 1 and weight.numel() >= 4096]
    others = [weight.numel() for weight in weights if weight.dim() < 2 or weight.numel() < 4096]
    fixed = vector % 64 if vector >= 64 else vector
    return slope * sum(matrices) + (one - slope * 64 * 64) * len(matrices) + (vector - fixed) / 64 * sum(others) + fixed * len(others)


def tensor_bytes(value: Tensor) -> int:
    """Bytes of a tensor, also of one that is made of others."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.numel() * value.itemsize


def anchors(facts: Facts) -> int:
    """Copies of the owned weights that penalties keep: the base's, and for EWC the Fisher information."""
    parts = [part for part in facts.loss.modules() if isinstance(part, Anchored) and part.coefficient > 0]
    return sum(2 if isinstance(part, EWC) else 1 for part in parts)


class Built(NamedTuple):
    """Properties of a model and its step that hold for any number of ranks."""

    counts: Counts
    held: float  # bytes of all weights and buffers, as forward reads them
    gradients: float  # bytes of all
    state: float  # bytes of the optimizer's state of all
    layers: int
    step: Step


def estimate_memory(facts: Facts) -> tuple[Memory, Counts]:
    """Estimates the memory of a rank, by a step without values and the arithmetic of the strategy (docs/scaling.md).

    Raises:
        ValueError: For a model whose step cannot be run without values.
    """
    built = build_and_trace(facts)
    return memory_of(facts, built), built.counts


def gradient_share(facts: Facts) -> float:
    """The part of the bytes of backward's gradients that stays on a rank; FSDP2 reduces them in float32."""
    split = facts.ranks if facts.engine in ("ZeRO-2", "ZeRO-3", "FSDP2") else 1
    return (2 if facts.engine == "FSDP2" and facts.half else 1) / split


def build_and_trace(facts: Facts) -> Built:
    """Makes the model without values, counts it, and runs a step."""
    with fake():
        backbone = build(facts)
        counts, layers = count(backbone), len(backbone.decoder.layers)  # type: ignore[arg-type]
        weights = list(backbone.parameters())
        trained = [weight for weight in weights if weight.requires_grad]
        held = float(sum(tensor.numel() * tensor.itemsize for tensor in (*weights, *backbone.buffers())))
        gradients = float(sum(weight.numel() * weight.itemsize for weight in trained))
        step = trace(facts, backbone, gradient_share(facts))
    with torch.random.fork_rng(devices=()):
        state = state_bytes(facts, trained)
    return Built(counts, held, gradients, state, layers, step)


def memory_of(facts: Facts, built: Built) -> Memory:
    """Adds up the parts of a rank."""
    counts, held, gradients, state, layers, step = built
    engine, ranks, share = facts.engine, facts.ranks, gradient_share(facts)
    shards = engine.startswith(("ZeRO", "FSDP2"))
    size = facts.half.itemsize if facts.half else 4
    base = held if facts.runs_base and facts.adapter is None else 0.0
    base += 4.0 * anchors(facts) * counts.trained / (ranks if shards else 1)
    masters = 4.0 * counts.trained if engine.startswith("ZeRO") and facts.half else 0.0
    optimizer = (state + masters) / (ranks if shards else 1)
    buckets, temporary = 0.0, float(4 * counts.largest)
    if engine == "DDP":
        buckets = 0.0 if getattr(facts.strategy, "_ddp_kwargs", {}).get("gradient_as_bucket_view") else gradients
    elif engine == "FSDP2":
        held = 4.0 * (counts.trained + counts.frozen) / ranks
        buckets = size * (counts.root + 2.0 * counts.layer) + (size + 4.0) * max(counts.layer, counts.root)
    elif shards:
        buckets, temporary = 2.0 * BUCKET * size, 4.0 * counts.trained / ranks if facts.half else 0.0
    if engine == "ZeRO-3":
        held = 0.0 if offloads_weights(facts) else held / ranks
        buckets += size * float(min(counts.trained + counts.frozen, LIVE_WEIGHTS))
    if facts.offloads_optimizer:
        optimizer = temporary = 0.0
    peaks = {**step.peaks, "optimizer step": Live(temporary, gradients)}
    if shards and facts.micro_batches > 1:
        peaks = {moment: peak._replace(gradients=gradients) for moment, peak in peaks.items()}
    moment, peak = max(peaks.items(), key=lambda item: item[1].activations + share * item[1].gradients)
    cache = cache_bytes(facts, facts.config.get_text_config(), layers, size)
    whole = held + optimizer + base + buckets + peak.activations + share * peak.gradients
    return Memory(held, optimizer, base, buckets, share * gradients, peak.activations, peak.head, step.kept, whole, moment, cache, held + cache)


def offloads_weights(facts: Facts) -> bool:
    """Whether ZeRO-3 keeps the weights in the CPU's memory."""
    zero = (getattr(facts.strategy, "config", None) or {}).get("zero_optimization", {})
    return (zero.get("offload_param") or {}).get("device", "none") != "none"


def cache_bytes(facts: Facts, text: Any, layers: int, size: int) -> float:
    """Keys and values of a batch of prompts with their responses; sliding windows are not subtracted."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2.0 * layers * heads * width * size * facts.batching.eval_batch_size * (facts.length + facts.new_tokens)


def changes(facts: Facts) -> Iterator[tuple[str, Facts]]:
    """Options that need less memory, each alone, and the run with it."""
    from lit_talr.modeling.adapters import LoRA
    from lit_talr.modeling.strategies import FSDP2Strategy

    if not facts.compute.gradient_checkpointing:
        yield "--model.compute.gradient_checkpointing true", replace(facts, compute=replace(facts.compute, gradient_checkpointing=True))
    elif facts.compute.checkpoint_every > 1:
        yield "--model.compute.checkpoint_every 1", replace(facts, compute=replace(facts.compute, checkpoint_every=1))
    if facts.rows > 1:
        one = replace(facts.batching, micro_batch_size=1, micro_batch_tokens=None, packing=False)
        yield "--data.batching.micro_batch_size 1", replace(facts, batching=one)
    if facts.length > 2048:
        yield "--data.encoding.max_length 2048", replace(facts, length=2048)
    if facts.adapter is None and not anchors(facts):
        if facts.engine in ("one process", "DDP", "ZeRO-1", "ZeRO-2"):
            yield "-c configs/adapter/lora.yaml", replace(facts, adapter=LoRA())
        if facts.engine in ("one process", "DDP") and facts.precision != "bf16-true":
            yield "--trainer.precision bf16-true --model.bf16_weights true (few weights move at 1e-6)", replace(facts, precision="bf16-true")
    if facts.engine != "FSDP2" and facts.adapter is None:
        more = max(facts.ranks, 8)
        yield f"-c configs/strategy/fsdp2.yaml on {more} GPUs", replace(facts, strategy=FSDP2Strategy(), ranks=more)
