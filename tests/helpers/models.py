"""Tiny architectures of many families, as ``model.architecture`` takes them."""

from typing import Any

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 8192,
}
VISION = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", **{key: value for key, value in SMALL.items() if key != "head_dim"}, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **SMALL, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", **SMALL, "tie_word_embeddings": False},
    "gemma2": {"model_type": "gemma2", **SMALL, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {**SMALL, "query_pre_attn_scalar": 8, "sliding_window": 16},
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
        "mm_tokens_per_image": 4,
        "image_token_index": 40,
        "boi_token_index": 41,
        "eoi_token_index": 42,
    },
}
"""The families that most tests run."""
TOKENS = {"pad_token_id": 40, "bos_token_id": 41, "eos_token_id": 42}  # where a family's own lie beyond a tiny vocabulary
LAYERS_OF_TWO_KINDS = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 1, "linear_num_value_heads": 2}
WIDTHS = {key: value for key, value in SMALL.items() if key != "head_dim"}
GEMMA4 = {
    **SMALL,
    **LAYERS_OF_TWO_KINDS,
    **TOKENS,
    "num_kv_shared_layers": 2,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 300,
    "final_logit_softcapping": 2.0,
}
OTHERS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"model_type": "gemma3_text", **SMALL, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma4_text": {"model_type": "gemma4_text", **GEMMA4},
    "mistral": {"model_type": "mistral", **SMALL, "sliding_window": 16},
    "phi3": {"model_type": "phi3", **WIDTHS, **TOKENS},
    "phi": {"model_type": "phi", **WIDTHS, **TOKENS, "partial_rotary_factor": 0.5},
    "olmo2": {"model_type": "olmo2", **WIDTHS, **TOKENS},
    "olmo3": {"model_type": "olmo3", **WIDTHS, **LAYERS_OF_TWO_KINDS, **TOKENS},
    "granite": {"model_type": "granite", **WIDTHS, "logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "cohere": {"model_type": "cohere", **WIDTHS, **TOKENS, "logit_scale": 0.25},
    "cohere2": {"model_type": "cohere2", **SMALL, **LAYERS_OF_TWO_KINDS, **TOKENS, "logit_scale": 0.25},
    "smollm3": {"model_type": "smollm3", **WIDTHS, **TOKENS, "no_rope_layers": [1, 0]},
    "qwen3_5_text": {"model_type": "qwen3_5_text", **SMALL, **LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"model_type": "lfm2", **WIDTHS, **TOKENS, "layer_types": ["conv", "full_attention"]},
    "qwen3_moe": {"model_type": "qwen3_moe", **SMALL, **EXPERTS},
    "olmoe": {"model_type": "olmoe", **WIDTHS, **TOKENS, **EXPERTS},
}
"""Families that the twin's check lets through, beside those above."""
