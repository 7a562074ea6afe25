"""Runs one step on tensors without values, and adds up the bytes that are alive."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
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

    def plus(self, scale: float, other: "Live") -> "Live":
        """The line through ``other`` and this one, ``scale`` times their difference further."""
        return Live(*(max(0.0, own + scale * (own - its)) for own, its in zip(self, other, strict=True)))


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, until these are freed, and remembers the largest sum of each phase.

    Args:
        module: Its parameters and buffers do not count.
        share: Factor of gradients in the sum: the part that stays on this rank.
    """

    def __init__(self, module: nn.Module, share: float) -> None:
        super().__init__()
        self.share, self.phase, self.making = share, "forward", "activations"
        self.peaks, self.sizes = dict[str, Live](), dict[int, int]()
        self.live = {"activations": 0, "gradients": 0, "head": 0}
        self.kind = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())), "weight")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.kind:
                self.add(tensor.untyped_storage())
        return output

    def add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        self.kind[key], self.sizes[key] = self.making, storage.nbytes()
        self.live[self.making] += self.sizes[key]
        weakref.finalize(storage, self.drop, key)
        now = Live(self.live["activations"] + self.live["head"], self.live["gradients"], self.live["head"])
        self.peaks[self.phase] = max(self.peaks.get(self.phase, Live()), now, key=lambda live: live.activations + self.share * live.gradients)

    def drop(self, key: int) -> None:
        self.live[self.kind.pop(key)] -= self.sizes.pop(key)

    def is_gradient(self, weight: Tensor) -> None:
        """Counts a weight's gradient as one from now on."""
        assert weight.grad is not None
        key = weight.grad.untyped_storage()._cdata
        self.live[self.kind[key]] -= self.sizes[key]
        self.kind[key] = "gradients"
        self.live["gradients"] += self.sizes[key]

    @contextmanager
    def head(self) -> Iterator[None]:
        """The block whose tensors are the head's."""
        self.making = "head"
        yield
        self.making = "activations"


def build(facts: Facts) -> Backbone:
    """Makes the backbone without values and without memory, as on a CPU; inside a ``FakeTensorMode``."""
    default = torch.get_default_dtype()
    attention = "eager" if facts.compute.attention == "eager" else "sdpa"  # FlashAttention and its like keep what sdpa keeps, and need a GPU
    try:
        torch.set_default_dtype(facts.weights_dtype if facts.precision.endswith("true") else torch.float32)  # that of adapters
        with no_init_weights(), torch.device("meta"), unset_fake_temporarily():
            model = AutoModelForCausalLM.from_config(facts.config, dtype=facts.weights_dtype, attn_implementation=attention, trust_remote_code=False)
            model.train().tie_weights()
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


def trace(facts: Facts, backbone: Backbone, share: float) -> dict[str, Live]:
    """Runs a step with few layers twice, and continues both lines to the number of layers, since each layer adds the same.

    Args:
        facts: Of the run.
        backbone: Whole; afterwards it has few layers.
        share: The part of the bytes of backward's gradients that stays on this rank.

    Returns:
        The peak of each phase.

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
    return {phase: more[phase].plus((number - 3 * period) / period, peak) for phase, peak in less.items()}


def run_step(facts: Facts, backbone: Backbone, share: float) -> dict[str, Live]:
    """Runs forward and backward of a micro-batch that is not the first of its run, in the order of Lightning: old gradients go between the two."""
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    layers: Any = backbone.decoder.layers
    live = LiveBytes(backbone, share)
    plain = facts.engine in ("one process", "DDP")
    mixed = facts.half if facts.precision.endswith("mixed") and not facts.engine.startswith("ZeRO") else None
    ids = torch.zeros(facts.rows, facts.length, dtype=torch.int64)
    index = torch.zeros(facts.labels, dtype=torch.int64)

    def begins(phase: str) -> Any:
        """Lets backward enter a phase where it leaves a layer."""

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args[0].requires_grad and torch.is_grad_enabled() and live.phase == "forward":
                args[0].register_hook(lambda _: setattr(live, "phase", phase))

        return hook

    hooks = [weight.register_post_accumulate_grad_hook(live.is_gradient) for weight in trained]
    edges = {len(layers) - facts.compute.checkpoint_every: "middle", facts.compute.checkpoint_every: "last layers"}  # in this order where they are one
    hooks += [layers[at].register_forward_pre_hook(begins(phase)) for at, phase in edges.items() if 0 < at < len(layers)]
    try:
        with live:
            for weight in trained if plain else ():
                weight.grad = torch.empty_like(weight)
                live.is_gradient(weight)
            with torch.autocast("cpu", mixed) if mixed else nullcontext():
                base = base_hidden(backbone, ids, index) if facts.runs_base else None
                hidden = backbone.states(ids).flatten(0, 1)[index]
                with live.head():
                    kept = head_forward(facts, backbone)
            if facts.micro_batches == 1:
                backbone.zero_grad()
            live.phase = "first layers"
            with live.head():
                gradient = head_backward(facts, backbone, hidden, kept is not None, live)
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
    return {phase: peak for phase, peak in live.peaks.items() if phase != "middle"}


@torch.no_grad()
def base_hidden(backbone: Backbone, ids: Tensor, index: Tensor) -> Tensor:
    """The base model's hidden states at the supervised tokens."""
    hidden = backbone.eval().states(ids)
    backbone.train()
    return hidden.flatten(0, 1)[index]


def keeps_logits(facts: Facts, backbone: Backbone) -> bool:
    """Whether the head keeps the logits of a micro-batch."""
    return facts.labels * len(backbone.head.weight) * 4 <= facts.compute.kept_logits and backbone.head.softcap is None


def rounded(facts: Facts, weight: Tensor) -> Tensor | None:
    """The copy of the head's weight that matrix products read, where it is not the weight itself; on a CPU it is in float32."""
    dtype = (facts.half or weight.dtype) if facts.gpu else torch.float32
    return None if dtype == weight.dtype else torch.empty_like(weight, dtype=dtype)


def head_forward(facts: Facts, backbone: Backbone) -> Tensor | None:
    """Makes the tensors that the head's forward makes (``lit_talr.kernels``), and returns the logits that it keeps."""
    weight, number, keeps = backbone.head.weight, facts.labels, keeps_logits(facts, backbone)
    copy = rounded(facts, weight)  # noqa: F841
    if facts.runs_base:
        torch.empty(KL_MATRICES * min(KL_CHUNK, number), len(weight))
    logits = torch.empty(number if keeps else min(number, CHUNK_TOKENS_CUDA if facts.gpu else CHUNK_TOKENS), len(weight))
    return logits if keeps else None


def head_backward(facts: Facts, backbone: Backbone, hidden: Tensor, kept: bool, live: LiveBytes) -> Tensor:
    """Makes the tensors that the head's backward makes, and returns the gradient of the hidden states."""
    weight = backbone.head.weight
    copy = rounded(facts, weight)  # noqa: F841
    chunk = min(facts.labels, CHUNK_TOKENS_CUDA if facts.gpu else CHUNK_TOKENS)
    own = [] if kept else [torch.empty((KL_MATRICES if facts.runs_base else 1) * chunk, len(weight))]
    if facts.gpu and facts.half:
        own.append(torch.empty(chunk, len(weight), dtype=facts.half))
    gradient = torch.empty_like(hidden)
    if weight.requires_grad:
        whole = torch.empty(weight.shape, dtype=torch.float32)
        if weight.grad is None:
            weight.grad = whole.to(weight.dtype)
            live.is_gradient(weight)
    return gradient
