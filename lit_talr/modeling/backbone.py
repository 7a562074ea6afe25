"""A causal language model of transformers, split into decoder and head."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils import is_liger_kernel_available

from lit_talr.data.encoded import Packing
from lit_talr.kernels.token_kl import TokenKL
from lit_talr.kernels.token_nll import IGNORE_INDEX, KEPT_BYTES, TokenNLL
from lit_talr.modeling.adapters import Adapter
from lit_talr.modeling.adapting import ADAPTER, adapter_names, add_adapters
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.modeling.head import BaseLogits, Head, HeadKernel


class BackboneOutput(NamedTuple):
    """Per-token numbers ``[B, T]``, 0 where a label is ``IGNORE_INDEX``."""

    nll: Tensor  # float32 (float64 for a float64 model), carries gradient
    correct: Tensor | None = None  # bool, whether the label is a most likely token; None, like the rest, unless asked for
    entropy: Tensor | None = None  # detached
    top_entropy: Tensor | None = None  # entropy of the twenty most likely tokens, renormalised; detached
    base_kl: Tensor | None = None  # KL(base || model), carries gradient
    masked_kl: Tensor | None = None  # the same without the label, carries gradient


class Backbone(nn.Module):
    """A causal language model whose head runs on supervised tokens only, and stores logits only while they are few (``kept_logits``).

    Decoder and head run behind one ``forward``, as sharding strategies need it. Parts outside the text model (Gemma 3's vision tower) are frozen.

    Args:
        model: As loaded by ``load_model``.
        adapter: Trained in place of the weights, which are frozen then.
        head_kernel: Function for the NLL where it carries gradient; elsewhere it is always ``own``.
        kept_logits: Bytes of a micro-batch's logits up to which ``own`` keeps them for the gradient, at least 0; larger ones are computed twice.

    Raises:
        ValueError: For a model without a linear head. Whether its logits are otherwise what this class computes, ``load_model`` has checked.
    """

    def __init__(self, model: PreTrainedModel, adapter: Adapter | None = None, head_kernel: HeadKernel = "own", kept_logits: int = KEPT_BYTES) -> None:
        super().__init__()
        config = model.config.get_text_config()
        linear = model.get_output_embeddings()
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"Models of type `{model.config.model_type}` are not supported: the head must be a linear layer, got {type(linear).__name__}.")
        self.model = model
        self.config = config
        Head.from_linear(linear, *logit_options(config), head_kernel, kept_logits)
        trained = {id(parameter) for module in (self.decoder, self.head) for parameter in module.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained and adapter is None)
        if adapter is not None:
            add_adapters(model, self.decoder, self.head, adapter)
            self.register_state_dict_post_hook(leave_out_base)
            self.register_load_state_dict_post_hook(allow_no_base)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        """Moves buffers without casting them: rotary frequencies in bfloat16 alias distant positions."""
        exact = [(module, name, buffer) for module in self.modules() for name, buffer in module._buffers.items() if buffer is not None]
        super()._apply(fn, recurse)
        for module, name, buffer in exact:
            moved = module._buffers[name]
            assert moved is not None
            module._buffers[name] = buffer.to(moved.device)
        return self

    @property
    def adapter_config(self) -> PeftConfig | None:
        """PEFT's configuration of the adapter, if there is one."""
        configs: dict[str, PeftConfig] = getattr(self.model, "peft_config", {})
        return configs.get(ADAPTER)

    @property
    def decoder(self) -> nn.Module:
        return self.model.get_decoder()

    @property
    def head(self) -> Head:
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    @torch.no_grad()
    def base_logits(self, input_ids: Tensor, packing: Packing | None = None) -> BaseLogits:
        """Runs this model without its adapters, in evaluation mode, on tokens ``[B, T]``: with adapters, that is the base model."""
        adapted = [module for module in self.modules() if isinstance(module, BaseTunerLayer)]
        for module in adapted:
            module.enable_adapters(False)
        with evaluation_mode(self):
            hidden = self.states(input_ids, packing)
        for module in adapted:
            module.enable_adapters(True)
        return BaseLogits(hidden, self.head.weight.detach(), None if self.head.bias is None else self.head.bias.detach())

    def states(self, input_ids: Tensor, packing: Packing | None = None) -> Tensor:
        """``[B, T, D]``, the decoder's output for rows padded on the right. The rows need no mask, since causal attention never looks to the right."""
        positions: dict[str, Any] = {} if packing is None else {"position_ids": packing.position_ids}
        if packing is not None and "flash" in str(self.model.config._attn_implementation):  # or each layer would search for them
            positions |= dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), packing.boundaries)
            positions |= dict.fromkeys(("max_length_q", "max_length_k"), packing.longest)
        return self.decoder(input_ids=input_ids, use_cache=False, **positions).last_hidden_state

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        packing: Packing | None = None,
        supervised: Tensor | None = None,
        correct: bool = False,
        entropy: bool = False,
        top_entropy: bool = False,
        base: BaseLogits | None = None,
        base_kl: bool = False,
        masked_kl: bool = False,
    ) -> BackboneOutput:
        """Scores labels.

        Args:
            input_ids: ``[B, T]`` int64, padded on the right.
            labels: ``[B, T]`` int64, the token that position t has to predict, ``IGNORE_INDEX`` where it carries no loss.
            packing: Boundaries of the examples in a packed row; by default each row is one example.
            supervised: ``[N]`` int64, indices of the flattened labels that are not ``IGNORE_INDEX``; finding them forces a device synchronization.
            correct: Also return whether labels are the most likely tokens.
            entropy: Also return the entropy of each distribution.
            top_entropy: Also return the entropy of its twenty most likely tokens.
            base: The base model at the same tokens, with hidden states ``[B, T, D]``.
            base_kl: Also return the divergence from the base model.
            masked_kl: Also return that without the label.
        """
        hidden = self.states(input_ids, packing)
        index, shape = (labels != IGNORE_INDEX).flatten().nonzero()[:, 0] if supervised is None else supervised, labels.shape
        chosen = hidden.flatten(0, 1)[index]
        tokens: TokenNLL = self.head(chosen, labels.flatten()[index], correct, entropy, top_entropy)
        base = base and base._replace(hidden=base.hidden.flatten(0, 1)[index])
        whole: TokenKL | None = self.head(chosen, base=base) if base_kl else None
        masked: TokenKL | None = self.head(chosen, labels.flatten()[index], base=base) if masked_kl else None
        values = (*tokens, whole and whole.kl, masked and masked.kl)
        return BackboneOutput(*(value if value is None else scatter(value, index, shape) for value in values))  # type: ignore[arg-type]


def leave_out_base(backbone: Backbone, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Keeps the adapters alone in a checkpoint; the frozen weights are the base model's, which is loaded first."""
    own = {f"{prefix}model.{name}" for name in adapter_names(backbone.model)}
    for name in [name for name in state if name.startswith(prefix) and name not in own]:
        del state[name]


def allow_no_base(backbone: Backbone, keys: Any) -> None:
    """Lets a checkpoint lack the frozen weights, which ``leave_out_base`` left out; all of the adapters must be there."""
    base = set(backbone.model.state_dict()) - set(adapter_names(backbone.model))
    keys.missing_keys[:] = [name for name in keys.missing_keys if name.partition("model.")[2] not in base]


def logit_options(config: PretrainedConfig) -> tuple[float | None, float]:
    """Reads the soft-cap and scale of the logits from a text model's configuration: Gemma's cap, Cohere's factor, Granite's divisor."""
    return getattr(config, "final_logit_softcapping", None), (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)


def compile_layers(decoder: nn.Module) -> None:
    """Compiles each layer once for all row lengths, for training; evaluation mode runs them uncompiled."""
    for layer in decoder.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=True)
    torch._dynamo.config.recompile_limit = 64  # adapters on and off, recomputed or not, one row or several: each triggers a recompilation
    torch._dynamo.config.ignore_logging_functions.add(logging.Logger.warning_once)  # type: ignore[attr-defined]  # FlashAttention's warning would break the graph


def use_liger_layers(model: PreTrainedModel) -> None:
    """Replaces a model's norms, MLPs and rotary positions by Liger's; its head and loss stay. Later models of its family in this process get some too.

    Raises:
        ValueError: Without a GPU, or if Liger is not installed.
    """
    if not torch.cuda.is_available() or not is_liger_kernel_available():
        raise ValueError("`model.compute.liger_layers` needs a GPU and `pip install lit-talr[liger]`; leave it out.")
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def scatter(values: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    """Puts ``[N]`` values at N flat indices of a tensor of this shape, 0 elsewhere; differentiable."""
    return torch.zeros(shape.numel(), dtype=values.dtype, device=values.device).index_copy(0, index, values).view(shape)
