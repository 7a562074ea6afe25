"""The divergence of two models on text that the first one samples: Proposition 3.1 without data, for vocabularies too large for a tree."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_talr.theory.walk import check_context, evaluation, vocabulary_size, walk, widen
from lit_talr.utils.errors import check_least


class Drift(NamedTuple):
    """Nats per token over sampled sequences, with standard errors over the sequences."""

    change: float  # of the code length: log q1 - log q2 of the sampled tokens
    change_error: float
    kl: float  # KL(q1 || q2) of the next token, summed over the vocabulary at every position of the samples
    kl_error: float
    difference_error: float  # of change - kl, whose expectation is 0
    num_tokens: int


def drift(
    first: PreTrainedModel, second: PreTrainedModel, start: int, num_sequences: int = 64, num_tokens: int = 64, seed: int = 0, batch_size: int = 64
) -> Drift:
    """KL(first || second) per token, by sampling from the first.

    With P = q1, Proposition 3.1 says that the change in code length E[L_q2] - E[L_q1] is KL(q1 || q2). Two estimates are given: the change on the sampled
    tokens, which needs only code lengths, and the sum of the next-token divergences, which has less noise.

    Args:
        first: The model to sample from (temperature 1, all tokens, no stop).
        second: A model of the same vocabulary.
        start: The token before every sequence.
        num_sequences: At least 2.
        num_tokens: Tokens of each sequence, at most the models' positions.
        seed: Seed of the sampling.
        batch_size: Sequences that run at once.

    Raises:
        ValueError: For fewer than two sequences, more tokens than a model has positions, or models of different vocabularies.
    """
    check_least("num_sequences", num_sequences, 2, "one sequence has no standard error")
    for model in (first, second):
        check_context(model, num_tokens)
    sizes = [vocabulary_size(model) for model in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"`second` must have the vocabulary of `first`, {sizes[0]} tokens, got {sizes[1]}.")
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for done in range(0, num_sequences, batch_size):
        tokens = sample(first, start, min(batch_size, num_sequences - done), num_tokens, generator)
        samples.append(compare_models(first, second, tokens))
    change, kl = torch.cat(samples).double().unbind(1)
    errors = [float(values.std() / num_sequences**0.5) for values in (change, kl, change - kl)]
    return Drift(float(change.mean()), errors[0], float(kl.mean()), errors[1], errors[2], num_sequences * num_tokens)


def sample(model: PreTrainedModel, start: int, num_rows: int, num_tokens: int, generator: torch.Generator) -> Tensor:
    """``[B, T + 1]`` tokens, the first of them ``start``; the generator is on the CPU."""
    tokens = torch.full((num_rows, num_tokens + 1), start)

    def choose(step: int, logits: Tensor) -> Tensor:
        tokens[:, step + 1] = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)[:, 0]
        return tokens[:, step + 1]

    walk(model, start, num_rows, num_tokens, choose)
    return tokens


def compare_models(first: PreTrainedModel, second: PreTrainedModel, tokens: Tensor) -> Tensor:
    """``[B, 2]``: the change in code length and the divergence of each sequence, per token."""
    with evaluation(first), evaluation(second):
        logs = [widen(model(input_ids=tokens[:, :-1].to(model.device), use_cache=False).logits).log_softmax(-1).cpu() for model in (first, second)]
        ratio = logs[0] - logs[1]
        change = ratio.gather(2, tokens[:, 1:, None]).squeeze(2)
        kl = (logs[0].exp() * ratio).sum(2)
        return torch.stack([change.mean(1), kl.mean(1)], 1)
