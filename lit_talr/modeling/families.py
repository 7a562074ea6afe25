"""Support is checked, not listed: a model is refused by what its small random twin shows."""

from transformers import PretrainedConfig
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

from lit_talr.modeling.twin import twin_errors

FLASH = ("flash_attention_2", "flash_attention_3")
ISOLATING = ("eager", "sdpa", "flex_attention", *FLASH, *(FLASH_ATTN_KERNEL_FALLBACK[name] for name in FLASH))
"""Attention implementations that isolate the examples of a packed row by their positions alone."""
NATS, GRADIENT = 1e-4, 1e-3
"""Largest errors that pass: of a token's NLL, and of a weight's gradient relative to its norm; float32's rounding stays below a fifth of them."""


def check_family(config: PretrainedConfig, attention: str | None) -> None:
    """Refuses a model unless the NLL and gradients of its twin are those of transformers' own logits.

    Args:
        config: Of the model that is loaded; no weights are needed.
        attention: Its attention implementation; the twin has it where a CPU does, else the default.

    Raises:
        ValueError: Naming the difference or the cause.
    """
    text, way_out = config.get_text_config(), "choose another model (docs/families.md has those that pass)"
    if getattr(config, "output_router_logits", False) or getattr(text, "output_router_logits", False):
        raise ValueError("`output_router_logits` adds the router's auxiliary loss, which is not computed here; set it to false in the model's config.json.")
    errors = twin_errors(config, attention)
    remedy = f"teach `logit_options` of lit_talr/modeling/backbone.py how its logits follow from its head, or {way_out}."
    if not errors.nll <= NATS:
        raise ValueError(
            f"Models of type `{config.model_type}` are not supported: on a small random one, the NLL of this package and that of the model's own logits "
            f"must be within {NATS:g} nats, and differ by {errors.nll:.2g}; {remedy}"
        )
    if not errors.gradient <= GRADIENT:
        raise ValueError(
            f"Models of type `{config.model_type}` are not supported: on a small random one, the gradients of this package and those of the model's own "
            f"logits must be within {GRADIENT:g} of their norm, and differ by {errors.gradient:.2g}; {remedy}"
        )


def check_packing(config: PretrainedConfig) -> None:
    """Refuses a model that is not known to isolate the examples of a packed row, by its attention's name and by its twin.

    FlashAttention runs on GPUs only; there the twin has transformers' default attention, and shows whether other parts of the layers mix examples.

    Raises:
        ValueError: Naming the attention implementations that isolate, or how much the twin leaks.
    """
    attention = config._attn_implementation
    if attention not in ISOLATING:
        raise ValueError(
            f"`data.batching.packing` needs an attention that isolates the examples of a row, which `{attention}` is not known to do; "
            f"set `model.compute.attention` to one of {', '.join(ISOLATING)}, or leave `data.batching.packing` out."
        )
    packed = twin_errors(config, attention).packed
    if not packed <= NATS:
        raise ValueError(
            f"`data.batching.packing` needs a model that isolates the examples of a row, which models of type `{config.model_type}` do not: on a small random "
            f"one, another example in the row changes a token's NLL by {packed:.2g} nats, with {NATS:g} allowed; leave `data.batching.packing` out."
        )
