"""Runs one step on tensors without values, and adds up its operations and the bytes that are alive."""

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from lit_talr.estimate.facts import Facts
from lit_talr.kernels import token_kl, token_nll
from lit_talr.kernels.chunked_head import ChunkedHead, TokenScores
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.head import BaseLogits
from lit_talr.modeling.strategies import is_deepspeed, splits_optimizer
from lit_talr.training.building import recompute_layers
from lit_talr.utils.errors import first_line


def product_flops(
    total: Tensor, left: Tensor, right: Tensor, out_dtype: Any = None, *, beta: Any = 1, alpha: Any = 1, out: Any = None, out_val: Any = None
) -> int:
    """Operations of ``addmm``, also in place and with a dtype of the result, of which torch counts neither. The arguments are those of all overloads."""
    return 2 * left.numel() * right.shape[1]


ATEN = torch.ops.aten
FLOPS = {
    **flop_registry,
    **dict.fromkeys((ATEN.addmm, ATEN.addmm_), product_flops),
    ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[ATEN._scaled_dot_product_flash_attention],
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[ATEN._scaled_dot_product_flash_attention_backward],
}
"""torch's formulas of operations, which lack some. The arguments of a CPU's attention begin as a GPU's do."""


class Live(NamedTuple):
    """Bytes at one moment."""

    activations: float = 0.0
    head: float = 0.0
    gradients: float = 0.0  # of whole weights, before an engine splits them


class LiveBytes(TorchDispatchMode):
    """Adds up operations, and the storages that they make until these are freed; remembers the largest sum of each phase.

    ``torch.distributed._tools.MemTracker`` does the like, but cannot tell the head, and knows no share of gradients, on which the moment of the peak depends.

    Args:
        given: Tensors that do not count.
        share: Factor of gradients in the sum: the part that stays on this rank.
    """

    def __init__(self, given: Iterable[Tensor], share: float = 1.0) -> None:
        super().__init__()
        self.share, self.phase, self.part, self.flops = share, "forward", "activations", 0.0
        self.live, self.peaks = dict.fromkeys(Live._fields, 0), dict[str, Live]()
        self.parts = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in given), "given")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if formula := FLOPS.get(function._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.parts:
                self.add(tensor.untyped_storage())
        return output

    def add(self, storage: torch.UntypedStorage) -> None:
        self.parts[storage._cdata] = self.part
        self.live[self.part] += storage.nbytes()
        weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())
        peaks = self.peaks.get(self.phase, Live()), Live(**self.live)
        self.peaks[self.phase] = max(peaks, key=lambda live: live.activations + live.head + self.share * live.gradients)

    def drop(self, key: int, size: int) -> None:
        self.live[self.parts.pop(key)] -= size

    def is_gradient(self, weight: Tensor) -> None:
        """Counts a weight's gradient as one from now on."""
        assert weight.grad is not None
        key, size = weight.grad.untyped_storage()._cdata, weight.grad.untyped_storage().nbytes()
        self.live[self.parts[key]] -= size
        self.live["gradients"] += size
        self.parts[key] = "gradients"


class GPUHead(ChunkedHead):
    """The head as a GPU computes it, on any device: operands stay in half precision."""

    def operand(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype)


def build(facts: Facts) -> Backbone:
    """Makes the backbone without values and without memory, as on a CPU; inside a ``FakeTensorMode``."""
    true = facts.precision.endswith("true")
    rounds = true or splits_optimizer(facts.strategy) or facts.adapter is not None  # to what forward reads, except that masters stay elsewhere
    dtype, default = (facts.half if rounds and facts.half else torch.float32), torch.get_default_dtype()
    attention = "eager" if facts.compute.attention == "eager" else "sdpa"  # FlashAttention and its like keep what sdpa keeps, and need a GPU
    try:
        torch.set_default_dtype(dtype if true else torch.float32)  # that of adapters
        with no_init_weights(), torch.device("meta"), unset_fake_temporarily():  # PEFT moves weights, which fake ones do not allow
            model = AutoModelForCausalLM.from_config(facts.config, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
            model.train().tie_weights()
            backbone = Backbone(model, facts.adapter)
    finally:
        torch.set_default_dtype(default)
    if facts.compute.gradient_checkpointing:
        recompute_layers(backbone, facts.compute.checkpoint_every)
    fakes: dict[Any, Any] = {None: None}  # a tied weight once
    for module in backbone.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor not in fakes:
                    fake = torch.empty_like(tensor, device="cpu")  # type: ignore[arg-type]
                    fakes[tensor] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
                tensors[name] = fakes[tensor]
    return backbone


def run_step(facts: Facts, backbone: Backbone, share: float) -> LiveBytes:
    """Runs forward and backward of a micro-batch that is not the first of its run, in the order of Lightning: old gradients go between the two.

    Args:
        facts: Of the run.
        backbone: By ``build``, used up.
        share: The part of the bytes of gradients that stays on this rank.

    Raises:
        ValueError: For a model whose code needs values, such as a mixture of experts that sorts its tokens.
    """
    live = LiveBytes((*backbone.parameters(), *backbone.buffers()), share)
    mixed = facts.half if facts.precision.endswith("mixed") and not is_deepspeed(facts.strategy) else None
    autocast = partial(torch.autocast, "cpu", mixed or torch.bfloat16, enabled=mixed is not None)
    ids = torch.zeros(facts.rows, facts.length, dtype=torch.int64)
    index = torch.zeros(max(1, round(facts.supervised * ids.numel())), dtype=torch.int64)
    try:
        with live:
            for weight in filter(lambda weight: weight.requires_grad, backbone.parameters()):
                weight.register_post_accumulate_grad_hook(live.is_gradient)
                if not splits_optimizer(facts.strategy):
                    weight.grad = torch.empty_like(weight)
                    live.is_gradient(weight)
            with autocast():  # a block of its own: autocast keeps rounded weights to its end, and these would carry no gradient
                base = backbone.base_logits(ids) if facts.runs_base else None
            with autocast():
                hidden = backbone.states(ids).flatten(0, 1)[index]
            live.part = "head"
            hidden.register_hook(lambda _: setattr(live, "part", "activations"))
            loss = head_loss(facts, backbone, hidden, base and base._replace(hidden=base.hidden.flatten(0, 1)[index]))
            if facts.micro_batches == 1:
                backbone.zero_grad()
            live.phase = "backward"
            del hidden, base
            loss.backward()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"Memory of models of type `{facts.config.model_type}` cannot be estimated, since their code needs values: {first_line(error)}"
        ) from error
    return live


def head_loss(facts: Facts, backbone: Backbone, hidden: Tensor, base: BaseLogits | None) -> Tensor:
    """The sum of what ``token_nll`` and ``token_kl`` give for hidden states ``[N, D]``, without their checks, which need values."""
    head, needs, labels = backbone.head, facts.loss.needs, torch.zeros(len(hidden), dtype=torch.int64)
    kind, chunk_tokens = (GPUHead, token_nll.CHUNK_TOKENS_CUDA) if facts.gpu else (ChunkedHead, token_nll.CHUNK_TOKENS)
    chunks = kind(facts.half or torch.float32, head.softcap, head.scale, chunk_tokens)
    keep = len(hidden) * len(head.weight) * 4 <= facts.compute.kept_logits and head.softcap is None
    scorer = token_nll.Scorer(chunks, keep, False, "entropy" in needs, "top_entropy" in needs)
    model = hidden, head.weight, head.bias
    loss = TokenScores.apply(scorer, *model, labels, torch.arange(len(hidden)))[0].sum()
    if base is not None:
        few = chunks._replace(chunk_tokens=token_kl.CHUNK_TOKENS)
        loss = loss + TokenScores.apply(token_kl.Scorer(few, few), *model, *base, labels if "masked_kl" in needs else None)[0].sum()
    return loss
