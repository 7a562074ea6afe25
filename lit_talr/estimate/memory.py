"""Memory of a rank by part."""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lit_talr.estimate.facts import Facts
from lit_talr.estimate.trace import Live, build, keeps_logits, trace
from lit_talr.losses.anchored import Anchored
from lit_talr.losses.ewc import EWC
from lit_talr.modeling.strategies import splits_optimizer
from lit_talr.training.parts import PartsOptimizer
from lit_talr.training.supported import offloads

BUCKET = 200_000_000
"""Elements of a reduction bucket of DeepSpeed, as Lightning sets it; there are two, since communication overlaps."""
LIVE_WEIGHTS = 1_000_000_000
"""Most gathered weights that ZeRO-3 holds (``stage3_max_live_parameters``)."""
SMALL = 4096
"""Elements of a tensor from which 8-bit optimizers quantize its state."""


class Model(NamedTuple):
    """A model and its step: what holds for any number of ranks. Numbers of weights, tied ones once, and bytes."""

    trained: int
    frozen: int
    largest: int  # of the trained tensors
    layer: int  # of a decoder's layer
    root: int  # outside of the layers: embeddings, head
    layers: int  # how many
    matrices: int  # that a token is multiplied with, without the head
    trained_matrices: int
    head: int
    head_trained: bool
    keeps_logits: bool
    held: float  # bytes of all weights and buffers, as forward reads them
    gradients: float  # bytes of all
    state: float  # bytes of the optimizer's state of all
    peaks: dict[str, Live]  # of the step's phases


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
        return self.weights + self.optimizer + self.base + self.engine + self.live.activations + self.live.gradients


def read_model(facts: Facts) -> Model:
    """Makes the model without values, counts it, and runs a step.

    Raises:
        ValueError: For a model whose step cannot be run without values.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone = build(facts)
        weights = list(backbone.parameters())
        trained = [weight for weight in weights if weight.requires_grad]
        layers: Any = backbone.decoder.layers
        inside = [weight for weight in layers.parameters() if weight.dim() > 1]
        sizes = elements(trained), elements(weights) - elements(trained), max(map(torch.numel, trained), default=0)
        parts = ceil(elements(layers.parameters()) / len(layers)), elements(weights) - elements(layers.parameters()), len(layers)
        matrices = elements(inside), elements(weight for weight in inside if weight.requires_grad)
        head, keeps = backbone.head.weight, keeps_logits(facts, backbone)
        held = float(sum(tensor.nbytes for tensor in (*weights, *backbone.buffers())))
        gradients = float(sum(weight.nbytes for weight in trained))
        peaks = trace(facts, backbone, gradient_share(facts))
    counts = *sizes, *parts, *matrices, head.numel()
    return Model(*counts, head.requires_grad, keeps, held, gradients, state_bytes(facts, trained), peaks)


def elements(tensors: Any) -> int:
    return sum(map(torch.numel, tensors))


def state_bytes(facts: Facts, weights: Sequence[Tensor]) -> float:
    """Bytes of the optimizer's state for all of these weights, which have no values.

    A real optimizer steps two small matrices and a vector; the state of a tensor is a constant plus a multiple of its size.
    """
    dtype = torch.float32 if splits_optimizer(facts.strategy) else weights[0].dtype
    small = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((64, 64), (64, 128), (64,))]
    optimizer = facts.optimizer(small)
    if isinstance(optimizer, PartsOptimizer):
        optimizer.name_parameters([f"layers.0.mlp.{name}.weight" for name in ("up_proj", "down_proj", "norm")])
    for weight in small:
        weight.grad = torch.zeros_like(weight)
    with torch.random.fork_rng(devices=()):
        optimizer.step()
    one, two, vector = (sum(tensor_bytes(value) for value in optimizer.state[weight].values() if isinstance(value, Tensor)) for weight in small)
    slope = (two - one) / SMALL
    large = [weight.numel() for weight in weights if weight.dim() > 1 and weight.numel() >= SMALL]
    others, fixed = len(weights) - len(large), vector % 64 if vector >= 64 else vector
    rest = elements(weights) - sum(large)
    return slope * sum(large) + (one - slope * SMALL) * len(large) + (vector - fixed) / 64 * rest + fixed * others


def tensor_bytes(value: Tensor) -> int:
    """Bytes of a tensor, also of one that is made of others, such as an 8-bit one with its scales."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.nbytes


def anchors(facts: Facts) -> int:
    """Copies of the owned weights that penalties keep: the base's, and for EWC the Fisher information."""
    parts = [part for part in facts.loss.modules() if isinstance(part, Anchored) and part.coefficient > 0]
    return sum(2 if isinstance(part, EWC) else 1 for part in parts)


def gradient_share(facts: Facts) -> float:
    """The part of the bytes of backward's gradients that stays on a rank; FSDP2 reduces them in float32."""
    split = facts.ranks if facts.engine in ("ZeRO-2", "ZeRO-3", "FSDP2") else 1
    return (4 / facts.itemsize if facts.engine == "FSDP2" else 1) / split


def memory_of(facts: Facts, model: Model) -> Memory:
    """Adds up the parts of a rank, by the arithmetic of the strategy (docs/scaling.md).

    Args:
        facts: Of the run.
        model: Read for the same run, with any number of ranks.
    """
    engine, ranks, share, size = facts.engine, facts.ranks, gradient_share(facts), facts.itemsize
    splits = splits_optimizer(facts.strategy)
    split = ranks if splits else 1
    held, number = model.held, model.trained + model.frozen
    base = (held if facts.runs_base and facts.adapter is None else 0.0) + 4.0 * anchors(facts) * model.trained / split
    optimizer, buckets, temporary = model.state / split, 0.0, 4.0 * model.largest
    if engine == "DDP":
        buckets = 0.0 if getattr(facts.strategy, "_ddp_kwargs", {}).get("gradient_as_bucket_view") else model.gradients
    elif engine == "FSDP2":
        held = 4.0 * number / ranks
        buckets = size * (model.root + 2.0 * model.layer) + (size + 4.0) * max(model.layer, model.root)
    elif engine != "one process":
        zero: Any = (facts.strategy.config or {}).get("zero_optimization", {})  # type: ignore[attr-defined]
        masters = 4.0 * model.trained / ranks if facts.half else 0.0
        optimizer, buckets, temporary = optimizer + masters, 2.0 * BUCKET * size, masters
        if engine == "ZeRO-3":
            held = 0.0 if (zero.get("offload_param") or {}).get("device", "none") != "none" else held / ranks
            buckets += size * float(min(number, LIVE_WEIGHTS))
        if offloads(facts.strategy):  # type: ignore[arg-type]
            optimizer = temporary = 0.0
    peaks = {**model.peaks, "optimizer step": Live(temporary, model.gradients)}
    if splits and facts.micro_batches > 1:
        peaks = {moment: peak._replace(gradients=model.gradients) for moment, peak in peaks.items()}
    own = {moment: peak._replace(gradients=share * peak.gradients) for moment, peak in peaks.items()}
    moment, live = max(own.items(), key=lambda item: item[1].activations + item[1].gradients)
    return Memory(held, share * model.gradients, optimizer, base, buckets, moment, live, cache_bytes(facts, model.layers))


def cache_bytes(facts: Facts, layers: int) -> float:
    """Keys and values of a batch of prompts with their responses; sliding windows are not subtracted."""
    text: Any = facts.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2.0 * layers * heads * width * facts.itemsize * facts.batching.eval_batch_size * (facts.length + facts.new_tokens)
