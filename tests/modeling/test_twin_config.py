"""A twin's configuration has every kind of layer, and fits a vocabulary of 64."""

import json
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from lit_talr.modeling.twin_config import NUM_PLAIN_TOKENS, VOCABULARY, WINDOW, twin_fields


def fields_of(model_type: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """As they come back from a file, built once more."""
    config_class = CONFIG_MAPPING[model_type]
    fields = json.loads(json.dumps(twin_fields(config_class(**(options or {})))))
    return config_class.from_dict(fields).to_dict()


def test_each_kind_of_layer_is_kept_with_its_own_options() -> None:
    """Gemma 4 of 30 layers, the last 20 without keys and values of their own; full attention, each sixth, has wider heads."""
    fields = fields_of("gemma4_text", {"num_kv_shared_layers": 20})
    assert fields["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"]
    assert (fields["num_hidden_layers"], fields["num_kv_shared_layers"]) == (5, 3)
    assert {int(layer): options["head_dim"] for layer, options in fields["per_layer_config"].items()} == {1: 512, 3: 512, 4: 512}


@pytest.mark.parametrize(
    ("model_type", "options", "expected"),
    [
        ("qwen3", {}, {"num_hidden_layers": 2, "hidden_size": 64, "head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2}),
        ("olmo2", {"num_key_value_heads": 8, "hidden_size": 4096}, {"hidden_size": 256, "num_key_value_heads": 1}),
        ("smollm3", {"num_hidden_layers": 8}, {"no_rope_layers": [1, 0, 0], "num_hidden_layers": 3}),
        ("qwen3_moe", {"num_hidden_layers": 6, "mlp_only_layers": [0, 4]}, {"mlp_only_layers": [0], "num_hidden_layers": 3, "num_experts_per_tok": 2}),
        ("olmo3", {"attention_dropout": 0.1}, {"sliding_window": WINDOW, "attention_dropout": 0.0}),
        ("granite", {"logits_scaling": 8.0}, {"logits_scaling": 8.0}),
    ],
)
def test_fields(model_type: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    fields = fields_of(model_type, options)
    assert {name: fields[name] for name in expected} == expected


@pytest.mark.parametrize("model_type", ["gemma3", "cohere2", "glm4"])
def test_special_tokens_stay_different_and_lie_beyond_the_plain_ones(model_type: str) -> None:
    fields = fields_of(model_type)
    part = fields.get("text_config", fields)
    ids = [fields[name] for name in fields if name.endswith(("token_id", "token_index")) and fields[name] is not None]
    flat = [number for entry in ids for number in (entry if isinstance(entry, list) else [entry])]
    assert part["vocab_size"] == VOCABULARY and flat and all(NUM_PLAIN_TOKENS <= number < VOCABULARY for number in flat)
    assert len(set(flat)) > 1


def test_the_size_of_a_model_does_not_matter() -> None:
    small, large = (CONFIG_MAPPING["qwen3"](num_hidden_layers=layers, vocab_size=size) for layers, size in [(2, 300), (36, 151936)])
    assert twin_fields(small) == twin_fields(large)


def test_sizes_of_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="its configuration has no `num_hidden_layers`"):
        twin_fields(CONFIG_MAPPING["gpt2"]())
