"""Generates responses to prompts by transformers; the settings hold for every engine."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.utils.errors import check_in, check_least

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """How responses are generated. A model's own generation settings are not read, so that runs are comparable.

    Args:
        max_new_tokens: Tokens after which a response is cut, at least 1; the share of cut responses is logged.
        temperature: 0 is greedy decoding; above 0 samples, at least 0.001.
        top_p: Sample from the most likely tokens that hold this share of the probability, in (0, 1].
        top_k: Sample from this many most likely tokens; 0 is all.
        engine: ``transformers`` generates with the model in memory; ``vllm`` reads a model folder, for ``test`` on a GPU.

    Raises:
        ValueError: For a value out of range.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    engine: Literal["transformers", "vllm"] = "transformers"

    def __post_init__(self) -> None:
        check_least("generation.max_new_tokens", self.max_new_tokens, 1)
        if not (self.temperature == 0 or 0.001 <= self.temperature < math.inf):
            raise ValueError(f"`generation.temperature` must be 0 (greedy), or at least 0.001 and finite, got {self.temperature}.")
        check_least("generation.top_k", self.top_k, 0, "0 is all tokens")
        check_in("generation.top_p", self.top_p, "(0, 1]")


class Response(NamedTuple):
    """The text generated for one prompt."""

    text: str
    num_tokens: int
    cut: bool  # no stop token within max_new_tokens
    unanswered: bool = False  # the prompt was too long for the model


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Sequence[int],
    settings: Generation,
) -> list[Response]:
    """Generates one response for each prompt, in order.

    Args:
        model: In memory, on its device.
        tokenizer: Decodes responses.
        prompts: Token ids, as training saw them before the response; empty for a prompt that was too long.
        stop_token_ids: Any of these ends a response and is not part of its text.
        settings: How responses are generated.
    """
    return respond_to_prompts(prompts, lambda fitting: generate_batch(model, tokenizer, fitting, stop_token_ids, settings))


def respond_to_prompts(prompts: Sequence[Sequence[int]], respond: Callable[[list[Sequence[int]]], list[Response]]) -> list[Response]:
    """Responds in order; an empty prompt was too long and goes unanswered."""
    fitting = [prompt for prompt in prompts if prompt]
    responses = iter(respond(fitting) if fitting else [])
    return [next(responses) if prompt else Response("", 0, cut=False, unanswered=True) for prompt in prompts]


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Sequence[int],
    settings: Generation,
) -> list[Response]:
    """Responds to prompts of at least one token each, padded on the left."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    model_settings = model.generation_config
    model.generation_config = generation_config(settings, tokenizer.pad_token_id, stop_token_ids)  # `generate` fills unset fields from the model's settings
    try:
        with evaluation_mode(model):
            output = model.generate(  # type: ignore[operator]
                input_ids.to(model.device), attention_mask=attention_mask.to(model.device), use_cache=True
            )
    finally:
        model.generation_config = model_settings
    return [to_response(tokenizer, tokens, stop_token_ids) for tokens in output[:, width:].tolist()]


def to_response(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stop_token_ids: Sequence[int]) -> Response:
    """Decodes tokens up to the first stop token."""
    length = next((index for index, token in enumerate(tokens) if token in stop_token_ids), len(tokens))
    return Response(str(tokenizer.decode(tokens[:length], skip_special_tokens=True)), length, cut=length == len(tokens))


def read_valid(path: Path) -> GenerationConfig | None:
    """The settings in a model's generation_config.json, without those that contradict others; None if all are valid.

    Transformers refuses to save such settings, and none of them has an effect: a temperature beside ``do_sample: false``, as Llama 2 and Vicuna have it.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        items = sorted(given.items(), key=lambda item: item[0] not in ("do_sample", "num_beams", "return_dict_in_generate"))
    except (ValueError, AttributeError):
        remark(f"{path} holds no settings in JSON, and is passed over; what is written has default settings.")
        return GenerationConfig()
    valid: dict[str, Any] = {}
    for name, value in items:
        try:
            check_token_ids(name, value)
            GenerationConfig(**valid, **{name: value}).validate(strict=True)
            valid[name] = value
        except (ValueError, TypeError, AttributeError):
            remark(f"{path}: `{name}: {json.dumps(value)}` is invalid or contradicts another setting, and is passed over; what is written does not have it.")
    return GenerationConfig(**valid) if len(valid) < len(given) else None


def check_token_ids(name: str, value: Any) -> None:
    """Refuses token ids that are no numbers, which transformers takes and fails by later.

    Raises:
        TypeError: For such a value.
    """
    ids = value if isinstance(value, list) else [value]
    if name.endswith("_token_id") and value is not None and not all(type(token) is int for token in ids):
        raise TypeError(f"`{name}` must be a whole number, or a list of such")


@cache
@rank_zero_only
def remark(text: str) -> None:
    """Logs a text once, however often a model is loaded."""
    logger.warning(text)


def generation_config(settings: Generation, pad_token_id: int, stop_token_ids: Sequence[int]) -> GenerationConfig:
    """Translates the settings for transformers, with every penalty off."""
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k} if settings.temperature else {}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=bool(settings.temperature),
        repetition_penalty=1.0,
        pad_token_id=pad_token_id,
        eos_token_id=list(stop_token_ids),
        **sampling,
    )
