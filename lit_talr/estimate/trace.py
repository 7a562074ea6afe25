"""Runs one step on tensors without values, and adds up the bytes that are alive."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from lit_talr.estimate.facts import Facts
from lit_talr.kernels.token_nll import CHUNK_TOKENS, CHUNK_TOKENS_CUDA
from lit_talr.modeling.backbone import Backbone
from lit_talr.training.building import recompute_layers
from lit_talr.utils.errors import first_line

KL_CHUNK, KL_MATRICES = 256, 5
"""Tokens and logit matrices that ``token_kl`` holds at a time."""


class Live(NamedTuple):
    """Bytes at the moment of a phase's peak."""

    activations: float = 0.0
    gradients: float = 0.0  # of whole weights, before an engine splits them
    head: float = 0.0  # the part of the activations that the head takes

    def at(self, other: "Live", scale: float) -> "Live":
        """Extrapolates from another, ``scale`` times the difference further."""
        return Live(*(max(0.0, own + scale * (own - its)) for own, its in zip(self, other, strict=True)))


class Step(NamedTuple):
    """The peaks of a step's phases, and the bytes that forward leaves for backward."""

    peaks: dict[str, Live]
    kept: float


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, until these are freed, and remembers the largest sum of each phase.

    Args:
        module: Its parameters and buffers do not count.
        share: Factor of gradients in the sum: the part that stays on this rank.
    """

    def __init__(self, module: nn.Module, share: float) -> None:
        super().__init__()
        self.share, self.phase, self.peaks, self.sizes = share, "forward", dict[str, Live](), dict[int, int]()
        self.live = {"activations": 0, "gradients": 0, "head": 0}
        self.kind = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())), "weight")
        self.made = "activations"

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return output

    def add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.kind:
            return
        self.kind[key], self.sizes[key] = self.made, storage.nbytes()
        self.live[self.made] += self.sizes[key]
        weakref.finalize(storage, self.drop, key)
        now = Live(self.live["activations"] + self.live["head"], self.live["gradients"], self.live["head"])
        if self.phase not in self.peaks or self.total(now) > self.total(self.peaks[self.phase]):
            self.peaks[self.phase] = now

    def total(self, live: Live) -> float:
        return live.activations + self.share * live.gradients

    def drop(self, key: int) -> None:
        self.live[self.kind.pop(key)] -= self.sizes.pop(key)

    def is_gradient(self, weight: Tensor) -> None:
        """Counts a weight's gradient as one from now on."""
        assert weight.grad is not None
        key = weight.grad.untyped_storage()._cdata
        size = self.sizes[key]
        self.live[self.kind[key]] -= size
        self.kind[key] = "gradients"
        self.live["gradients"] += size

    @contextmanager
    def making(self, kind: str) -> Iterator[None]:
        self.made, before = kind, self.made
        yield
        self.made = before


def build(facts: Facts) -> Backbone:
    """Makes the backbone without values and without memory, as on a CPU; inside a ``FakeTensorMode``.

    Raises:
        ValueError: For a model that transformers cannot make.
    """
    default = torch.get_default_dtype()
    weights = facts.half if facts.rounds_weights or (facts.adapter and facts.half) else torch.float32
    try:
        torch.set_default_dtype(facts.half if facts.precision.endswith("true") and facts.half else torch.float32)  # that of adapters
        with no_init_weights(), torch.device("meta"), unset_fake_temporarily():
            model = AutoModelForCausalLM.from_config(facts.config, dtype=weights, attn_implementation=attention(facts), trust_remote_code=False).train()
            model.tie_weights()
            backbone = Backbone(model, facts.adapter, kept_logits=facts.compute.kept_logits)
    finally:
        torch.set_default_dtype(default)
    if facts.compute.gradient_checkpointing:
        recompute_layers(backbone, facts.compute.checkpoint_every)
    made: dict[Tensor, Any] = {}  # a tied weight once
    for module in backbone.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in made:
                    empty = torch.empty_like(tensor, device="cpu")
                    made[tensor] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
                tensors[name] = tensor if tensor is None else made[tensor]
    return backbone


def attention(facts: Facts) -> str:
    """What is run here: FlashAttention and its like, which do not run without a GPU, keep what ``sdpa`` keeps."""
    return "eager" if facts.compute.attention == "eager" else "sdpa"


def trace(facts: Facts, backbone: Backbone, share: float) -> Step:
    """Runs a step with few layers twice, and continues both lines to the number of layers: each layer adds the same.

    Args:
        facts: Of the run.
        backbone: Whole; afterwards it has few layers.
        share: The part of the gradients that stays on this rank, relative to those that backward makes.

    Raises:
        ValueError: For a model whose code needs values, such as a mixture of experts that sorts its tokens.
    """
    layers: Any = backbone.decoder.layers
    number, period = len(layers), facts.compute.checkpoint_every
    if number <= 3 * period:
        return run_step(facts, backbone, share)
    del layers[3 * period :]
    more = run_step(facts, backbone, share)
    del layers[2 * period :]
    less = run_step(facts, backbone, share)
    scale = (number - 3 * period) / period
    peaks = {phase: more.peaks[phase].at(less.peaks[phase], scale) for phase in less.peaks}
    return Step(peaks, more.kept + scale * (more.kept - less.kept))


def run_step(facts: Facts, backbone: Backbone, share: float) -> Step:
    """Runs forward and backward of a micro-batch that is not the first of its run, in the order of Lightning: old gradients go between the two."""
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    backbone.zero_grad()
    layers: Any = backbone.decoder.layers
    live = LiveBytes(backbone, share)
    own = isinstance(facts.strategy, SingleDeviceStrategy | DDPStrategy) and not facts.engine.startswith("ZeRO")
    hooks = [weight.register_post_accumulate_grad_hook(live.is_gradient) for weight in trained]
    mixed = facts.half if facts.precision.endswith("mixed") and not facts.engine.startswith("ZeRO") else None
    ids = torch.zeros(facts.rows, facts.length, dtype=torch.int64)
    index = torch.zeros(facts.labels, dtype=torch.int64)

    def mark(phase: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args[0].requires_grad and torch.is_grad_enabled() and live.phase == "forward":
                args[0].register_hook(lambda _: setattr(live, "phase", phase))

        return hook

    edges = {len(layers) - facts.compute.checkpoint_every: "middle", facts.compute.checkpoint_every: "last layers"}  # in this order where they are one
    hooks += [layers[at].register_forward_pre_hook(mark(phase)) for at, phase in edges.items() if 0 < at < len(layers)]
    try:
        with live:
            if own:
                for weight in trained:
                    weight.grad = torch.empty_like(weight)
                    live.is_gradient(weight)
            with torch.autocast("cpu", mixed) if mixed else nullcontext():
                base = base_hidden(backbone, ids, index) if facts.runs_base else None
                hidden = backbone.states(ids).flatten(0, 1)[index]
                with live.making("head"):
                    kept = head_forward(facts, backbone, base is not None)
            saved = float(live.live["activations"] + live.live["head"])
            if facts.micro_batches == 1:
                backbone.zero_grad()
            live.phase = "first layers"
            with live.making("head"):
                gradient = head_backward(facts, backbone, hidden, kept, live)
            del kept, base
            hidden.backward(gradient)
            del hidden, gradient
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"Memory of models of type `{facts.config.model_type}` cannot be estimated, since their code needs values: {first_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    backbone.zero_grad()
    return Step({phase: peak for phase, peak in live.peaks.items() if phase != "middle"}, saved)


@torch.no_grad()
def base_hidden(backbone: Backbone, ids: Tensor, index: Tensor) -> Tensor:
    """The base model's hidden states at the supervised tokens."""
    backbone.eval()
    hidden = backbone.states(ids)
    backbone.train()
    return hidden.flatten(0, 1)[index]


def operand(facts: Facts, weight: Tensor) -> Tensor | None:
    """The copy of the head's weight that matrix products read, where it is not the weight itself; on a CPU it is in float32."""
    dtype = (facts.half or weight.dtype) if facts.gpu else torch.float32
    return None if dtype == weight.dtype else weight.new_empty(weight.shape, dtype=dtype)


def head_forward(facts: Facts, backbone: Backbone, divergence: bool) -> Tensor | None:
    """Makes the tensors that the head's forward makes (``lit_talr.kernels``), and returns the logits that it keeps."""
    weight, number = backbone.head.weight, facts.labels
    copy = operand(facts, weight)
    keep = number * len(weight) * 4 <= facts.compute.kept_logits and backbone.head.softcap is None
    chunk = number if keep else min(number, CHUNK_TOKENS_CUDA if facts.gpu else CHUNK_TOKENS)
    logits = torch.empty(chunk, len(weight))
    if divergence:
        del logits
        torch.empty(KL_MATRICES * min(KL_CHUNK, number), len(weight))
        logits = torch.empty(chunk, len(weight)) if keep else torch.empty(0)
    del copy
    return logits if keep else None


def head_backward(facts: Facts, backbone: Backbone, hidden: Tensor, kept: Tensor | None, live: LiveBytes) -> Tensor:
    """Makes the tensors that the head's backward makes, and returns the gradient of the hidden states."""
    weight, number = backbone.head.weight, facts.labels
    copy = operand(facts, weight)
    chunk = min(number, CHUNK_TOKENS_CUDA if facts.gpu else CHUNK_TOKENS)
    own = [] if kept is not None else [torch.empty((KL_MATRICES if facts.runs_base else 1) * chunk, len(weight))]
    if facts.gpu and facts.half:
        own.append(torch.empty(chunk, len(weight), dtype=facts.half))
    gradient = torch.empty_like(hidden)
    if weight.requires_grad:
        whole = torch.empty(weight.shape, dtype=torch.float32)
        if weight.grad is None:
            weight.grad = whole.to(weight.dtype)
            live.is_gradient(weight)
        del whole
    del copy, own
    return gradient


def fake() -> FakeTensorMode:
    """The block in which tensors have no values, and take no memory."""
    return FakeTensorMode(allow_non_fake_inputs=True)
