"""Prompts in, answers out: the one place that generates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.modeling.evaluation_mode import evaluation_mode


@dataclass(frozen=True)
class Generation:
    """How answers are generated; a model's own generation settings are not read, so that every run means the same.

    Args:
        max_new_tokens: Tokens after which an answer is cut; the share of answers cut is logged.
        temperature: 0 is greedy decoding; above 0 samples, at least 0.001.
        top_p: Sample among the most likely tokens that hold this share of the probability, in (0, 1].
        top_k: Sample among this many tokens; 0 is all.
        engine: What generates: the model in memory, by transformers; or ``vllm``, which reads a model folder and is for ``test`` on a GPU.

    Raises:
        ValueError: For a value out of range.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    engine: Literal["transformers", "vllm"] = "transformers"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"`generation.max_new_tokens` must be at least 1, got {self.max_new_tokens}.")
        if not (self.temperature == 0 or 0.001 <= self.temperature < math.inf):
            raise ValueError(f"`generation.temperature` must be 0 (greedy), or at least 0.001 and finite, got {self.temperature}.")
        if self.top_k < 0:
            raise ValueError(f"`generation.top_k` must be at least 0 (all tokens), got {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`generation.top_p` must lie in (0, 1], got {self.top_p}.")


class Response(NamedTuple):
    """What was generated for one prompt."""

    text: str
    num_tokens: int
    cut: bool  # no stop token within max_new_tokens
    unanswered: bool = False  # the prompt was too long to be given to the model


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Sequence[int],
    settings: Generation,
) -> list[Response]:
    """One answer for each prompt, in order.

    Args:
        prompts: Token ids, as training saw them before the answer; without any where they were too many.
        stop_token_ids: Any of these ends an answer and is not part of its text.
    """
    return respond_to_prompts(prompts, lambda given: generate_batch(model, tokenizer, given, stop_token_ids, settings))


def respond_to_prompts(prompts: Sequence[Sequence[int]], answer: Callable[[list[Sequence[int]]], list[Response]]) -> list[Response]:
    """Answers in order; a prompt without tokens stands for one that was too long and goes unanswered."""
    given = [prompt for prompt in prompts if prompt]
    answers = iter(answer(given) if given else [])
    return [next(answers) if prompt else Response("", 0, cut=False, unanswered=True) for prompt in prompts]


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Sequence[int],
    settings: Generation,
) -> list[Response]:
    """Answers of prompts of at least one token each, padded on the left."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    own_settings = model.generation_config
    model.generation_config = generation_config(settings, tokenizer.pad_token_id, stop_token_ids)  # unset fields would be filled from the model's own
    try:
        with evaluation_mode(model):
            output = model.generate(  # type: ignore[operator]
                input_ids.to(model.device), attention_mask=attention_mask.to(model.device), use_cache=True
            )
    finally:
        model.generation_config = own_settings
    return [to_response(tokenizer, tokens, stop_token_ids) for tokens in output[:, width:].tolist()]


def to_response(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stop_token_ids: Sequence[int]) -> Response:
    """What was generated, up to the first stop token."""
    length = next((place for place, token in enumerate(tokens) if token in stop_token_ids), len(tokens))
    return Response(str(tokenizer.decode(tokens[:length], skip_special_tokens=True)), length, cut=length == len(tokens))


def generation_config(settings: Generation, pad_token_id: int, stop_token_ids: Sequence[int]) -> GenerationConfig:
    """Our settings in the words of transformers; every penalty off."""
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k} if settings.temperature else {}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=bool(settings.temperature),
        repetition_penalty=1.0,
        pad_token_id=pad_token_id,
        eos_token_id=list(stop_token_ids),
        **sampling,
    )
