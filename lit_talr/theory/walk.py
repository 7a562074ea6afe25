"""A causal model run token by token, where the caller chooses the next token: for sampling and for coding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.modeling.evaluation_mode import evaluation_mode

Choose = Callable[[int, Tensor], Tensor]
"""Takes the number of the step and logits ``[B, V]``, returns tokens ``[B]`` int64."""


@contextmanager
def evaluation(model: PreTrainedModel) -> Iterator[None]:
    """Runs a model without dropout and gradients."""
    with evaluation_mode(model), torch.inference_mode():
        yield


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before every sequence: BOS, or else EOS (which precedes a text in packed texts), or else token 0."""
    return next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if token is not None)


def check_context(model: PreTrainedModel, context: int) -> None:
    """Refuses a number of tokens beyond the model's positions.

    Raises:
        ValueError: If ``context`` is less than 1 or more than the model's positions.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context < 1 or (longest is not None and context > longest):
        raise ValueError(f"`context` must be at least 1{'' if longest is None else f' and at most the {longest} positions of the model'}, got {context}.")


def vocabulary_size(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().weight.size(0))  # type: ignore[operator]


def widen(logits: Tensor) -> Tensor:
    """Casts logits to float32; float64 stays.

    Raises:
        ValueError: For NaN.
    """
    if logits.isnan().any():
        raise ValueError("The model gives logits that are not numbers; look at its weights, which hold NaN or are too large for their dtype.")
    return logits if logits.dtype == torch.float64 else logits.float()


def check_tokens(model: PreTrainedModel, largest: int) -> None:
    """Refuses tokens of another tokenizer.

    Raises:
        ValueError: If the largest token is not in the model's vocabulary.
    """
    if largest >= (num_known := vocabulary_size(model)):
        raise ValueError(f"`tokenizer` gave the token {largest}, but the model knows {num_known} tokens; give the model's own tokenizer.")


def walk(model: PreTrainedModel, start: int, num_rows: int, num_steps: int, choose: Choose) -> None:
    """Runs ``num_rows`` sequences in one batch, each from ``start``, with a cache of keys and values.

    Equal arguments and choices give bitwise equal logits on one machine with the same number of threads.

    Args:
        model: Runs in evaluation mode, without gradients.
        start: The token before each sequence.
        num_rows: Sequences, B.
        num_steps: Tokens of each sequence.
        choose: Takes the number of the step and the logits ``[B, V]``, float32 (float64 for a float64 model); returns the next token of each row.
    """
    tokens, cache = torch.full((num_rows,), start, device=model.device), None
    with evaluation(model):
        for step in range(num_steps):
            output = model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            tokens = choose(step, widen(output.logits[:, -1])).to(model.device)
