"""Loads a causal language model by transformers, or makes one with random weights."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from lit_talr.modeling.families import check_family
from lit_talr.modeling.generation import read_valid
from lit_talr.utils.errors import first_line, without_code
from lit_talr.utils.files import looks_like_path, shipped
from lit_talr.utils.model_config import explained_config, refuse_quantised
from lit_talr.utils.waiting import fetching
from lit_talr.utils.weight_files import check_files, model_folder, refuse_adapter, tensors

GENERATES = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|LMHead)$")
"""The ends of names of classes that have a language-model head."""


def load_model(
    pretrained: str | None,
    revision: str | None,
    architecture: dict[str, Any] | None,
    vocab_size: int,
    attention: str | None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Loads a folder or hub name in training mode, or draws random weights for an architecture; in ``dtype``, or else the default dtype.

    Weights are read from safetensors only, and no code of the repository is run.

    Raises:
        ValueError: If neither or both of ``pretrained`` and ``architecture`` are given, the model cannot be found, its folder has
            an adapter, or other files than its manifest says, or its twin refuses it, or its weights are not those that its configuration asks for.
    """
    if (pretrained is None) == (architecture is None):
        raise ValueError(
            "Give `model.pretrained` (a folder or hub name) or `model.architecture` (a configuration for random weights), one of the two; "
            "`--model.architecture null` drops the latter."
        )
    dtype = dtype or torch.get_default_dtype()
    if pretrained is None:
        config = new_config(architecture or {}, vocab_size)
        check_family(config, attention)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False).train()
    pretrained = shipped(pretrained)
    refuse_adapter(Path(pretrained))
    check_files(Path(pretrained))
    check_folder(pretrained)
    try:
        with without_code(f"`model.pretrained`: {pretrained}"), fetching(pretrained):
            model = load_checked(pretrained, revision, attention, dtype)
    except SafetensorError:
        tensors(model_folder(pretrained, revision))  # which names the file
        raise
    except OSError as error:
        if error.strerror is not None:  # of the system, such as a full disk
            raise
        if "safetensors" in str(error):
            raise ValueError(
                f"`model.pretrained`: {pretrained} has no safetensors weights, and no others are read; convert it with `save_pretrained`."
            ) from error
        raise ValueError(
            f"`model.pretrained`: {pretrained} could not be loaded ({first_line(error)}); give a model folder or a hub name that is reachable."
        ) from error
    return model.train()  # from_pretrained gives eval mode, in which gradient checkpointing does nothing


def check_folder(pretrained: str) -> None:
    """Refuses a path that has no model."""
    if looks_like_path(pretrained) and not (Path(pretrained) / "config.json").is_file():
        raise ValueError(f"`model.pretrained`: {pretrained} is not a folder with a config.json; give a Hugging Face model folder or a hub name.")


def load_checked(pretrained: str, revision: str | None, attention: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """Loads a model whose twin does not refuse it, without generation settings that contradict each other."""
    config = read_config(pretrained, revision)
    check_family(config, attention)
    path = cached_file(pretrained, GENERATION_CONFIG_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
    model_and_loaded: Any = AutoModelForCausalLM.from_pretrained(
        pretrained,
        revision=revision,
        dtype=dtype,
        attn_implementation=attention,
        generation_config=read_valid(Path(path)) if path else None,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # and refuse them in a sentence
    )
    model: PreTrainedModel
    model, loaded = model_and_loaded
    check_loaded(loaded, pretrained, config)
    return model


def read_config(pretrained: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model whose weights are not quantised.

    Raises:
        ValueError: For a config.json that transformers makes no configuration of, and quantised weights.
    """
    with explained_config(pretrained):
        config = AutoConfig.from_pretrained(pretrained, revision=revision, trust_remote_code=False)
    refuse_quantised(config, pretrained)
    return config


def check_loaded(loaded: dict[str, Any], name: str, config: PretrainedConfig) -> None:
    """Refuses a model whose weights are not those that its configuration asks for: transformers draws missing ones at random, and leaves others out.

    Args:
        loaded: What transformers says of loading it; without tensors that its kind may lack or have, such as a tied head.
        name: Of the model, in messages.
        config: Its configuration.

    Raises:
        ValueError: For a classifier or another model without a language-model head, and for the first tensor of another shape, missing or left over.
    """
    headless = [architecture for architecture in config.architectures or () if not GENERATES.search(architecture)]
    if headless and (loaded["missing_keys"] or loaded["unexpected_keys"]):
        raise ValueError(
            f"{name} is no causal language model: `architectures` in its config.json is {headless[0]}, which has no language-model head; give the model "
            "that it was made from, such as one whose `architectures` ends in ForCausalLM."
        )
    way_out = "correct it, or fetch or write the folder again"
    for tensor, own, asked in sorted(loaded["mismatched_keys"]):
        raise ValueError(f"{name}: the weights do not fit config.json, which asks for `{tensor}` of {list(asked)}, and it is {list(own)}; {way_out}.")
    for kind, fault in (("missing_keys", "have no `{}`, which config.json asks for"), ("unexpected_keys", "have `{}`, for which config.json has no place")):
        if names := sorted(loaded[kind]):
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{name}: the weights {fault.format(names[0])}{more}; {way_out}.")


def check_weights(folder: Path) -> None:
    """Refuses a folder whose weights are not those that its configuration asks for; nothing is kept in memory.

    Raises:
        ValueError: Naming the tensor.
    """
    config = read_config(str(folder))
    model_and_loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, device_map="meta", use_safetensors=True, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_loaded(model_and_loaded[1], str(folder), config)


def new_config(architecture: dict[str, Any], vocab_size: int) -> PretrainedConfig:
    """Makes a configuration from its ``model_type`` and fields; ``vocab_size`` defaults to the tokenizer's."""
    fields = dict(architecture)
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"`model.architecture` needs a `model_type` that is a causal language model of transformers, got {model_type}; docs/families.md has those tested."
        )
    text = fields["text_config"] = dict(fields["text_config"]) if "text_config" in fields else None
    (fields if text is None else text).setdefault("vocab_size", vocab_size)
    if text is None:
        del fields["text_config"]
    return AutoConfig.for_model(model_type, **fields)
