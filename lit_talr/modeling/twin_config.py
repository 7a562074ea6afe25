"""The configuration of a model's twin: the same class and kinds of layers, small enough to build while a model loads."""

from typing import Any

from transformers import PretrainedConfig

VOCABULARY = 64
NUM_PLAIN_TOKENS = 40
"""Special tokens have higher ids."""
WIDTH = 64
WINDOW = 8
"""Positions that a sliding window of the twin reaches back; its documents are longer."""
MOST = {
    "hidden_size_per_layer_input": 16,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "first_k_dense_replace": 1,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
}
"""Most that a field is; a smaller one, and None, stays."""
LEFT_OUT = ("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "quantization_config", "transformers_version")
NEEDED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
INDICES = ("_layers", "_idxs", "_indices")
"""How the names of fields end that list some layers by their indices."""

Fields = dict[str, Any]


def twin_fields(config: PretrainedConfig) -> Fields:
    """Returns the fields of a model's twin, as ``config.json`` would have them.

    Each kind of layer occurs at least once. Heads keep their width, on which rotary positions depend. Dropout is off.
    Parts outside the text model stay as they are.

    Raises:
        ValueError: For a configuration whose sizes have other names.
    """
    text = config.get_text_config()
    nested = [name for name, value in vars(config).items() if value is text]
    fields = config.to_dict()
    part = fields[nested[0]] if nested else fields
    for name in LEFT_OUT:
        fields.pop(name, None)
        part.pop(name, None)
    if missing := [name for name in NEEDED if name not in part]:
        raise ValueError(f"its configuration has no `{missing[0]}`")
    shrink_widths(part)
    layers = kept_layers(part)
    for name, value in part.items():
        part[name] = of_layers(name, value, layers, part["num_hidden_layers"])
    if shared := part.get("num_kv_shared_layers"):
        part["num_kv_shared_layers"] = sum(layer >= part["num_hidden_layers"] - shared for layer in layers)
    part["num_hidden_layers"] = len(layers)
    part["initializer_range"] = part["hidden_size"] ** -0.5  # large enough for each layer to matter
    renumber_tokens(fields, part)
    return fields


def shrink_widths(part: Fields) -> None:
    """Makes the layers narrow, in place."""
    heads, pairs = part["num_attention_heads"], part.get("num_key_value_heads")
    part["hidden_size"] = WIDTH if part.get("head_dim") else 2 * (part["hidden_size"] // heads)
    part["num_attention_heads"] = 2
    if values := part.get("linear_num_value_heads"):
        part["linear_num_key_heads"], part["linear_num_value_heads"] = (2 if part["linear_num_key_heads"] == values else 1), 2
    part |= {name: VOCABULARY for name in ("vocab_size", "vocab_size_per_layer_input") if name in part}
    for fields in (part, *(part.get("per_layer_config") or {}).values()):
        if fields.get("num_key_value_heads"):
            fields["num_key_value_heads"] = 2 if pairs == heads else 1
        for name, value in fields.items():
            if name in MOST and isinstance(value, int):
                fields[name] = min(value, MOST[name])
            elif "intermediate_size" in name and value:
                fields[name] = [WIDTH] * len(value) if isinstance(value, list) else WIDTH
            elif isinstance(value, float) and ("drop" in name or "jitter" in name):
                fields[name] = 0.0


def kept_layers(part: Fields) -> list[int]:
    """Returns the first layer of each kind, and the last."""
    size, shared = part["num_hidden_layers"], part.get("num_kv_shared_layers") or 0
    kinds: dict[str, int] = {}
    for layer in range(size):
        kind = [of_layers(name, value, [layer], size) for name, value in part.items() if of_layers(name, value, [], size) != value]
        kinds.setdefault(repr((kind, layer >= size - shared)), layer)
    return sorted({*kinds.values(), size - 1})


def of_layers(name: str, value: Any, layers: list[int], size: int) -> Any:
    """Cuts a field to some of ``size`` layers, where it has an entry for each, or lists some of them."""
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        entries = {int(key): entry for key, entry in value.items()}
        return {index: entries[layer] for index, layer in enumerate(layers) if layer in entries}
    if not isinstance(value, list):
        return value
    if name.endswith(INDICES) and name != "no_rope_layers":  # which has a flag for each layer
        return [index for index, layer in enumerate(layers) if layer in value]
    return [value[layer] for layer in layers] if len(value) == size else value


def renumber_tokens(fields: Fields, part: Fields) -> None:
    """Gives special tokens the last ids of the small vocabulary, in place: one id for each old one."""
    ids: dict[int, int] = {}

    def new(value: Any) -> Any:
        if isinstance(value, list):
            return [new(entry) for entry in value]
        return value if not isinstance(value, int) or value < 0 else VOCABULARY - 1 - ids.setdefault(value, len(ids)) % (VOCABULARY - NUM_PLAIN_TOKENS)

    for owner in {id(fields): fields, id(part): part}.values():
        for name, value in owner.items():
            if name.endswith(("token_id", "token_index", "token_ids")):
                owner[name] = new(value)
