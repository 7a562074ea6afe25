"""All that is asked of transformers: load a causal language model, find its decoder and head."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK
from transformers.utils import is_liger_kernel_available

from lit_talr.data.packing import Packing
from lit_talr.kernels.liger_nll import liger_nll
from lit_talr.kernels.token_kl import TokenKL, token_kl
from lit_talr.kernels.token_nll import IGNORE_INDEX, KEPT_BYTES, TokenNLL, token_nll
from lit_talr.kernels.torch_nll import torch_nll
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.modeling.lora import LoRA, add_adapters
from lit_talr.utils.files import shipped
from lit_talr.utils.weight_files import refuse_adapter

FAMILIES = ("qwen2", "qwen3", "llama", "gemma2", "gemma3", "gemma3_text")
"""Model types whose per-token NLL is tested against transformers' own logits."""
FLASH = ("flash_attention_2", "flash_attention_3")
ISOLATING = ("eager", "sdpa", "flex_attention", *FLASH, *(FLASH_ATTN_KERNEL_FALLBACK[name] for name in FLASH))
"""Attention implementations that keep the examples of a packed row apart by their positions alone."""
HeadKernel = Literal["own", "torch", "liger"]
"""What computes the NLL and its gradient in training: ``lit_talr.kernels``' own, torch's or Liger's function."""


class BaseLogits(NamedTuple):
    """What a model is compared with: another of its kind at the same tokens, detached."""

    hidden: Tensor  # [..., D], its decoder's output
    weight: Tensor  # [V, D] of its head
    bias: Tensor | None  # [V]


class Head(nn.Linear):
    """A language model's head that can also be called with labels; ``head(hidden)`` stays what it was.

    Becomes the class of an existing ``Linear``: no second owner of the weight, no new key in the state dict, and the hooks of ZeRO and FSDP stay.
    """

    softcap: float | None
    scale: float
    kernel: HeadKernel
    kept_bytes: int

    @classmethod
    def from_linear(cls, linear: nn.Linear, softcap: float | None, scale: float, kernel: HeadKernel, kept_bytes: int) -> "Head":
        linear.__class__ = cls
        linear.softcap, linear.scale, linear.kernel, linear.kept_bytes = softcap, scale, kernel, kept_bytes  # type: ignore[assignment]
        return linear  # type: ignore[return-value]

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        correct: bool = False,
        entropy: bool = False,
        top_entropy: bool = False,
        base: BaseLogits | None = None,
    ) -> Any:
        """Logits ``[..., V]`` of hidden alone; with labels ``[N]``, none ignored, for hidden ``[N, D]`` the ``TokenNLL``, with a reference the ``TokenKL``."""
        if base is not None:
            caps = {"softcap": self.softcap, "scale": self.scale, "base_softcap": self.softcap, "base_scale": self.scale}
            return token_kl(hidden, self.weight, base.hidden, base.weight, self.bias, base.bias, **caps)  # type: ignore[arg-type]
        if labels is None:
            return super().forward(hidden)
        own = partial(token_nll, kept_bytes=self.kept_bytes)
        kernels: dict[HeadKernel, Callable[..., TokenNLL]] = {"own": own, "torch": torch_nll, "liger": liger_nll}
        kernel = kernels[self.kernel] if torch.is_grad_enabled() else own
        options: dict[str, Any] = {"softcap": self.softcap, "scale": self.scale, "correct": correct, "entropy": entropy, "top_entropy": top_entropy}
        return kernel(hidden, self.weight, labels, self.bias, all_supervised=True, **options)

    def try_kernel(self, device: torch.device, dtype: torch.dtype, entropy: bool, top_entropy: bool) -> None:
        """Score one token in training with a small head of this kind; draws no random numbers.

        Raises:
            ValueError: For what the kernel does not do.
        """
        if self.kernel == "liger" and device.type != "cuda":
            raise ValueError("`model.head_kernel: liger` is for Hopper GPUs (H100, H200); use the head `own`.")
        small = nn.utils.skip_init(nn.Linear, 64, 128, bias=self.bias is not None, device=device, dtype=dtype)
        for parameter in small.parameters():
            nn.init.zeros_(parameter)
        head = Head.from_linear(small, self.softcap, self.scale, self.kernel, self.kept_bytes)
        label = torch.zeros(1, dtype=torch.int64, device=device)
        head(torch.ones(1, 64, dtype=dtype, device=device), label, entropy=entropy, top_entropy=top_entropy).nll.sum().backward()


class BackboneOutput(NamedTuple):
    """Per-token numbers ``[B, T]``, 0 where a label is ``IGNORE_INDEX``."""

    nll: Tensor  # float32 (float64 for a float64 model), carries gradient
    correct: Tensor | None = None  # bool, whether no token is more likely than the label; None, like the rest, unless asked for
    entropy: Tensor | None = None  # detached
    top_entropy: Tensor | None = None  # of the twenty most likely tokens, renormalised; detached
    base_kl: Tensor | None = None  # KL(base || model), carries gradient
    agreement: Tensor | None = None  # bool, whether the reference has the same most likely token


class Backbone(nn.Module):
    """A causal language model whose head runs on supervised tokens only and never keeps its logits.

    Decoder and head run behind this one ``forward``, as sharding strategies need it. What is not the text model (Gemma 3's vision tower) is frozen.

    Args:
        model: As loaded by ``load_model``.
        lora: Adapters to train in place of the weights, which are frozen then.
        head_kernel: What computes the NLL where it carries gradient; elsewhere it is always ``own``.
        kept_logits: Bytes of a micro-batch's logits up to which ``own`` keeps them for the gradient, at least 0; larger ones it computes twice.

    Raises:
        ValueError: If the kernel is none of them, the bytes are negative, or the model has no linear head or is of a family whose head this class has not
            been tested with.
    """

    def __init__(self, model: PreTrainedModel, lora: LoRA | None = None, head_kernel: HeadKernel = "own", kept_logits: int = KEPT_BYTES) -> None:
        super().__init__()
        if head_kernel not in get_args(HeadKernel):
            raise ValueError(f"`model.head_kernel` must be one of {', '.join(get_args(HeadKernel))}, got {head_kernel!r}.")
        if kept_logits < 0:
            raise ValueError(f"`model.kept_logits` must be 0 (keep none) or a positive number of bytes, got {kept_logits}.")
        config = model.config.get_text_config()
        linear = model.get_output_embeddings()
        if model.config.model_type not in FAMILIES or not isinstance(linear, nn.Linear):
            raise ValueError(
                f"Models of type `{model.config.model_type}` are not supported; supported are {', '.join(FAMILIES)}. "
                "To add one, put its type into `FAMILIES` of lit_talr/modeling/backbone.py and a tiny one into tests/modeling/test_backbone.py."
            )
        self.model = model
        self.config = config
        Head.from_linear(linear, getattr(config, "final_logit_softcapping", None), 1.0, head_kernel, kept_logits)
        trained = {id(parameter) for module in (self.decoder, self.head) for parameter in module.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained and lora is None)
        if lora is not None:
            add_adapters(model, self.decoder, self.head, lora)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        """What ``to`` does: it moves buffers and does not cast them. Rotary frequencies in bfloat16, as pure half precision would have them, turn far positions
        into others.
        """
        exact = [(module, name, buffer) for module in self.modules() for name, buffer in module._buffers.items() if buffer is not None]
        super()._apply(fn, recurse)
        for module, name, buffer in exact:
            moved = module._buffers[name]
            assert moved is not None
            module._buffers[name] = buffer.to(moved.device)
        return self

    def check_packing(self) -> None:
        """Refuse an attention that is not known to keep the examples of a packed row apart.

        Raises:
            ValueError: With those that are.
        """
        if self.model.config._attn_implementation not in ISOLATING:
            raise ValueError(
                f"`data.batching.packing` needs an attention that keeps the examples of a row apart, which `{self.model.config._attn_implementation}` is not "
                f"known to do; set `model.attention` to one of {', '.join(ISOLATING)}, or leave `data.batching.packing` out."
            )

    @property
    def decoder(self) -> nn.Module:
        return self.model.get_decoder()

    @property
    def head(self) -> Head:
        return self.model.get_output_embeddings()  # type: ignore[return-value]

    @torch.no_grad()
    def base_logits(self, input_ids: Tensor, packing: Packing | None = None) -> BaseLogits:
        """This model at tokens ``[B, T]``, in evaluation mode and without its adapters: where these alone are trained, the starting model."""
        adapted = [module for module in self.modules() if isinstance(module, BaseTunerLayer)]
        for module in adapted:
            module.enable_adapters(False)
        with evaluation_mode(self):
            hidden = self.states(input_ids, packing)
        for module in adapted:
            module.enable_adapters(True)
        return BaseLogits(hidden, self.head.weight.detach(), None if self.head.bias is None else self.head.bias.detach())

    def states(self, input_ids: Tensor, packing: Packing | None = None) -> Tensor:
        """``[B, T, D]`` of the decoder for rows that are padded on the right: a mask is not needed, since causal attention looks to the left."""
        places: dict[str, Any] = {} if packing is None else {"position_ids": packing.position_ids}
        if packing is not None and "flash" in str(self.model.config._attn_implementation):  # or each layer would search for them
            places |= dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), packing.boundaries) | dict.fromkeys(("max_length_q", "max_length_k"), packing.longest)
        return self.decoder(input_ids=input_ids, use_cache=False, **places).last_hidden_state

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
    ) -> BackboneOutput:
        """Score labels.

        Args:
            input_ids: ``[B, T]`` int64, padded on the right.
            labels: ``[B, T]`` int64, the token that position t has to predict, ``IGNORE_INDEX`` where it carries no loss.
            packing: Where the examples of a packed row lie; by default each row is one.
            supervised: ``[N]`` int64, where the flattened labels are not ``IGNORE_INDEX``; by default they are searched for, which a GPU has to be waited for.
            correct: Also tell whether labels are the most likely tokens.
            entropy: Also give the entropy of each distribution.
            top_entropy: Also give that of its twenty most likely tokens.
            base: Of the same tokens, with hidden states ``[B, T, D]``; also give the divergence from it.
        """
        hidden = self.states(input_ids, packing)
        places, shape = (labels != IGNORE_INDEX).flatten().nonzero()[:, 0] if supervised is None else supervised, labels.shape
        chosen = hidden.flatten(0, 1)[places]
        tokens: TokenNLL = self.head(chosen, labels.flatten()[places], correct, entropy, top_entropy)
        others: TokenKL | None = None
        if base is not None:
            others = self.head(chosen, base=base._replace(hidden=base.hidden.flatten(0, 1)[places]))
        return BackboneOutput(
            nll=scatter(tokens.nll, places, shape),
            correct=None if tokens.correct is None else scatter(tokens.correct, places, shape),
            entropy=None if tokens.entropy is None else scatter(tokens.entropy, places, shape),
            top_entropy=None if tokens.top_entropy is None else scatter(tokens.top_entropy, places, shape),
            base_kl=None if others is None else scatter(others.kl, places, shape),
            agreement=None if others is None else scatter(others.agreement, places, shape),
        )


def compile_layers(decoder: nn.Module) -> None:
    """Compile each layer, once for all lengths of rows, for training forwards; evaluation mode runs them as they are."""
    for layer in decoder.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=True)
    torch._dynamo.config.recompile_limit = 64  # adapters on and off, recomputed or not, one row or several: each is a variant
    torch._dynamo.config.ignore_logging_functions.add(logging.Logger.warning_once)  # type: ignore[attr-defined]  # FlashAttention's, else a graph's end


def use_liger_layers(model: PreTrainedModel) -> None:
    """Give a model Liger's norms, MLPs and rotary positions; its head and loss stay. Models of the family that the process makes later get some of them too.

    Raises:
        ValueError: Without a GPU, or if Liger is not installed.
    """
    if not torch.cuda.is_available() or not is_liger_kernel_available():
        raise ValueError("`model.liger_layers` needs a GPU and `pip install lit-talr[liger]`; leave it out.")
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def scatter(values: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    """``[N]`` values to N places of a flattened tensor of this shape, 0 elsewhere; differentiable."""
    return torch.zeros(shape.numel(), dtype=values.dtype, device=values.device).index_copy(0, places, values).view(shape)


def load_model(
    pretrained: str | None,
    revision: str | None,
    architecture: dict[str, Any] | None,
    vocab_size: int,
    attention: str | None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """A model in ``dtype``, or else the default dtype, in training mode, from a folder or hub name, or with random weights from an architecture.

    Weights are read from safetensors only and no code of the repository is run.

    Raises:
        ValueError: If neither or both of ``pretrained`` and ``architecture`` are given, the model cannot be found, or an adapter lies beside it.
    """
    if (pretrained is None) == (architecture is None):
        raise ValueError(
            "Give `model.pretrained` (a folder or hub name) or `model.architecture` (a configuration for random weights), one of the two; "
            "`--model.architecture null` takes the latter back."
        )
    dtype = dtype or torch.get_default_dtype()
    if pretrained is None:
        config = new_config(architecture or {}, vocab_size)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).train()
    pretrained = shipped(pretrained)
    refuse_adapter(Path(pretrained))
    if looks_like_path(pretrained) and not (Path(pretrained) / "config.json").is_file():
        raise ValueError(f"`model.pretrained`: {pretrained} is not a folder with a config.json; give a Hugging Face model folder or a hub name.")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            pretrained, revision=revision, dtype=dtype, attn_implementation=attention, use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        if "safetensors" in str(error):
            raise ValueError(
                f"`model.pretrained`: {pretrained} has no safetensors weights, and no others are read; convert it with `save_pretrained`."
            ) from error
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(
            f"`model.pretrained`: {pretrained} could not be loaded ({first_line}); give a model folder or a hub name that is reachable."
        ) from error
    return model.train()  # from_pretrained gives eval mode, in which gradient checkpointing does nothing


def new_config(architecture: dict[str, Any], vocab_size: int) -> PretrainedConfig:
    """A configuration from its ``model_type`` and fields; the text model's ``vocab_size`` is the tokenizer's unless it is given."""
    fields = dict(architecture)
    model_type = fields.pop("model_type", None)
    if model_type not in FAMILIES:
        raise ValueError(f"`model.architecture` needs a `model_type` out of {', '.join(FAMILIES)}, got {model_type}.")
    text = fields["text_config"] = dict(fields["text_config"]) if "text_config" in fields else None
    (fields if text is None else text).setdefault("vocab_size", vocab_size)
    if text is None:
        del fields["text_config"]
    return AutoConfig.for_model(model_type, **fields)


def looks_like_path(name: str) -> bool:
    """Whether a name can only mean a folder: hub names are ``name`` or ``owner/name``."""
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
