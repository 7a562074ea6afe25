"""Checks families of models on small random twins, and prints the table of docs/families.md.

    python -m benchmarks.families

The configurations are the defaults of transformers, which are those of a published model of each family, or have the options that are named.
"""

import time
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING

from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.families import NATS
from lit_talr.modeling.twin import twin, twin_errors
from lit_talr.modeling.twin_config import twin_fields

FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "Qwen2, Qwen2.5": ("qwen2", {}, ""),
    "Qwen3": ("qwen3", {}, ""),
    "Qwen3-MoE": ("qwen3_moe", {}, "trained without the router's auxiliary loss"),
    "Qwen3.5": ("qwen3_5_text", {}, "three of four layers have linear attention"),
    "Llama": ("llama", {}, ""),
    "Mistral": ("mistral", {}, ""),
    "SmolLM3": ("smollm3", {}, ""),
    "Gemma 2": ("gemma2", {"final_logit_softcapping": 30.0}, "soft-cap"),
    "Gemma 3": ("gemma3", {}, "vision parts stay frozen"),
    "Gemma 3, text only": ("gemma3_text", {}, ""),
    "Gemma 4": ("gemma4", {}, "vision and audio parts stay frozen"),
    "Gemma 4 E, text only": ("gemma4_text", {"num_kv_shared_layers": 10, "final_logit_softcapping": 30.0}, "layers that share keys and values, soft-cap"),
    "Phi": ("phi", {}, "head with bias"),
    "Phi-3, Phi-4": ("phi3", {}, "fused q, k and v"),
    "OLMo 2": ("olmo2", {}, ""),
    "OLMo 3": ("olmo3", {}, ""),
    "OLMoE": ("olmoe", {}, "trained without the router's auxiliary loss"),
    "Granite": ("granite", {"logits_scaling": 8.0}, "logits divided by `logits_scaling`"),
    "Cohere": ("cohere", {}, "logits times `logit_scale`"),
    "Cohere 2": ("cohere2", {}, "logits times `logit_scale`"),
    "GLM 4": ("glm4", {}, ""),
    "Mixtral": ("mixtral", {}, "trained without the router's auxiliary loss"),
    "DeepSeek V3": ("deepseek_v3", {}, "trained without changes of the router's bias"),
    "GPT-OSS": ("gpt_oss", {}, "trained without the router's auxiliary loss; its mask knows no examples"),
    "LFM2": ("lfm2", {"layer_types": ["conv", "conv", "full_attention"] * 2, "num_hidden_layers": 6}, "convolutions"),
}
"""For each name a model type, options of its configuration, and a remark."""


def row(name: str) -> str:
    model_type, options, remark = FAMILIES[name]
    config = CONFIG_MAPPING[model_type](**options)
    start = time.perf_counter()
    errors = twin_errors(config, None)
    seconds = time.perf_counter() - start
    packing = "yes" if errors.packed <= NATS else f"no, {errors.packed:.1f} nats"
    return f"| {name} | `{model_type}` | {errors.nll:.1e} | {errors.gradient:.1e} | {packing} | {adapters(config)} | {seconds:.2f} | {remark} |"


def adapters(config: Any) -> str:
    """Whether adapters in all linear layers get a gradient, or why there are none."""
    with torch.random.fork_rng():
        model = twin(type(config).from_dict(twin_fields(config)), None)
    try:
        backbone = Backbone(model, LoRA(r=2))
    except ValueError:
        return "`targets` needed"
    ids = torch.arange(20)[None]
    backbone(ids, ids).nll.sum().backward()
    idle = [name for name, weight in backbone.named_parameters() if weight.requires_grad and weight.grad is None]
    return f"idle: {', '.join(idle)}" if idle else f"{sum(isinstance(module, nn.Linear) and 'lora_A' in name for name, module in model.named_modules())} layers"


if __name__ == "__main__":
    print("| family | type | NLL, nats | gradient, relative | packing isolates | LoRA by default | seconds | remark |\n|---|---|---|---|---|---|---|---|")
    for family in FAMILIES:
        print(row(family), flush=True)
