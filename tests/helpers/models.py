"""Tiny architectures of the five families, as ``model.architecture`` takes them."""

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
