"""Conversations that the base model writes: both turns of each are sampled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.encoded import EncodedExamples
from lit_talr.data.encoder import ChatEncoder, Encoded
from lit_talr.data.example import Example, Message
from lit_talr.data.messages import MARK, content_text
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.generation import Generation, generate
from lit_talr.modeling.responder import stop_tokens
from lit_talr.theory.walk import start_token
from lit_talr.training.base_model import BaseModel
from lit_talr.utils.progress import track
from lit_talr.utils.waiting import on_rank_zero

ROWS = 32
"""Conversations that are sampled together. Part of what the samples depend on."""
NGRAM = 4
"""Tokens of a passage whose repetition is counted."""
NO_PROMPT, NO_RESPONSE, NOT_ENCODED = "with an unfinished prompt", "with an unfinished response", "not encodable"


class Sample(NamedTuple):
    """A conversation, and numbers of its response's tokens, the end of turn among them."""

    messages: Sequence[Message]  # the last is the response, where there is one
    fault: str | None = None  # why it is no training row; then it has no numbers
    num_tokens: int = 0
    repetition: float = 0.0  # the share of its passages of four tokens that occurred in it before
    confidence: float = 0.0  # the base model's mean log-probability of a token, in nats


class Sampling(NamedTuple):
    """How conversations are sampled."""

    seed: int
    prompts: Generation
    responses: Generation


class UserTurn(NamedTuple):
    """The texts that a chat template writes around a user's turn."""

    before: str
    after: str  # up to where the response begins
    end: str  # the part of it that tells that the turn has ended


def user_turn(encoder: ChatEncoder) -> UserTurn:
    """Looks up what stands around the first user's turn: it ends with the first special token behind it, or else with the text up to the response.

    Without a template that is a blank line.

    Raises:
        ValueError: If the template refuses a conversation of one turn, or rewrites it.
    """
    before, mark, after = encoder.template.render([Message(role="user", content=MARK)], prompt=True).partition(MARK)
    special = encoder.special.search(after)
    if not mark or not after:
        raise ValueError(f"T{str(encoder.template)[1:]} does not say where a user's turn ends, so none can be sampled; give another `encoding.chat_template`.")
    return UserTurn(before, after, special[0] if special else after.strip() or after)


def sample_conversations(trainer: Trainer, base: BaseModel, encoder: ChatEncoder, sampling: Sampling, number: int, prompts: Sequence[Example]) -> list[Sample]:
    """Lets rank zero sample conversations from a copy of the base model of its own, in the arithmetic of training. Collective.

    The other ranks wait for a few samples at a time, however long all of them take.

    Args:
        trainer: Knows the ranks, the device and the precision.
        base: The base model, not loaded yet.
        encoder: Has the chat template.
        sampling: How they are sampled.
        number: Of the conversations.
        prompts: One for each conversation; where there are none, the user's turns are sampled.
    """
    loaded: list[Backbone] = []
    samples: list[Sample] = []

    def load() -> None:
        loaded.append(base.load(trainer))
        if not prompts:
            check_room(loaded[0], encoder, sampling)

    on_rank_zero(trainer, load, "loads the base model")
    for first in track(range(0, number, ROWS), "Samples of the base model", show=trainer.is_global_zero):

        def work(first: int = first) -> list[Sample]:
            with isolate_rng(), base.forward_context(trainer):
                torch.manual_seed(hash((sampling.seed, first)) % 2**63)
                return sample(loaded[0], encoder, sampling, min(ROWS, number - first), prompts[first : first + ROWS])

        samples += on_rank_zero(trainer, work, f"samples from the base model ({first:,} of {number:,} done)")
    loaded.clear()
    torch.cuda.empty_cache()
    return samples


def opening(encoder: ChatEncoder) -> list[int]:
    """The token ids before a user's turn, at least one."""
    return [*encoder.start, *encoder.tokenize(user_turn(encoder).before, start=True)] or [start_token(encoder.tokenizer)]


def check_room(backbone: Backbone, encoder: ChatEncoder, sampling: Sampling) -> None:
    """Refuses conversations that may be longer than the model's positions.

    Raises:
        ValueError: With both lengths.
    """
    turn, longest = user_turn(encoder), getattr(backbone.config, "max_position_embeddings", None)
    tokens = len(opening(encoder)) + len(encoder.tokenize(turn.after, start=False)) + sampling.prompts.max_new_tokens + sampling.responses.max_new_tokens
    if longest is not None and tokens > longest:
        raise ValueError(
            f"`prompt_tokens` {sampling.prompts.max_new_tokens} and `response_tokens` {sampling.responses.max_new_tokens} make, with the template's, "
            f"conversations of up to {tokens} tokens, more than the {longest} positions of the base model; lower one of them."
        )


def sample(backbone: Backbone, encoder: ChatEncoder, sampling: Sampling, number: int, prompts: Sequence[Example]) -> list[Sample]:
    """Samples conversations together, from torch's random state: the user's turns, unless they are given, then a response to each that has ended."""
    asked = prompts or sample_prompts(backbone, encoder, sampling.prompts, number)
    inputs = [encode_prompt(encoder, prompt) for prompt in asked]
    answers = generate(backbone.model, encoder.tokenizer, inputs, stop_tokens(backbone.model.generation_config, encoder), sampling.responses)
    samples, rows = [], {}
    for index, (prompt, answer) in enumerate(zip(asked, answers, strict=True)):
        whole = with_response(prompt, answer.text.strip())
        fault = NO_PROMPT if answer.unanswered else NO_RESPONSE if answer.cut or not answer.text.strip() else None
        if fault is None:
            try:
                rows[index] = encoder.encode(whole)
            except ValueError:  # too long, or a text that the template changes
                fault = NOT_ENCODED
        samples.append(Sample(prompt.messages if answer.unanswered else whole.messages, fault))
    for (index, row), confidence in zip(rows.items(), confidences(backbone, list(rows.values()), encoder.pad_token_id), strict=True):
        tokens = row.input_ids[row.supervised].tolist()
        samples[index] = Sample(samples[index].messages, None, len(tokens), repetition(tokens), confidence)
    return samples


def sample_prompts(backbone: Backbone, encoder: ChatEncoder, settings: Generation, number: int) -> list[Example]:
    """Samples user's turns; one that has not ended, or is empty, is empty."""
    turn, stops = user_turn(encoder), stop_tokens(backbone.model.generation_config, encoder)
    end = encoder.tokenize(turn.end, start=False)
    written = generate(backbone.model, encoder.tokenizer, [opening(encoder)] * number, [*stops, *end[: len(end) == 1]], settings)
    texts = ["" if answer.cut and turn.end not in answer.text else answer.text.partition(turn.end)[0].strip() for answer in written]
    return [Example([Message(role="user", content=text)], ()) for text in texts]


def with_response(prompt: Example, text: str) -> Example:
    """The training row of a prompt and a response to it."""
    return replace(prompt, messages=[*prompt.messages, Message(role="assistant", content=text)], supervised=(len(prompt.messages),))


def encode_prompt(encoder: ChatEncoder, prompt: Example) -> list[int]:
    """The prompt as token ids; empty if its last turn is, or if it cannot be encoded."""
    if not content_text(prompt.messages[-1]).strip():
        return []
    try:
        return encoder.encode_prompt(prompt.messages, tools=prompt.tools, template_arguments=prompt.template_arguments)[0]
    except ValueError:
        return []


@torch.no_grad()
def confidences(backbone: Backbone, rows: Sequence[Encoded], pad_token_id: int) -> list[float]:
    """The mean log-probability of each row's supervised tokens, in nats."""
    if not rows:
        return []
    encoded = EncodedExamples(rows, pad_token_id)
    batch = encoded[MicroBatch(tuple(range(len(rows))), int(encoded.num_supervised.sum()))]
    nll = backbone(batch["input_ids"].to(backbone.head.weight.device), batch["labels"].to(backbone.head.weight.device)).nll
    return (-nll.double().sum(1).cpu() / torch.from_numpy(encoded.num_supervised)).tolist()


def repetition(tokens: Sequence[int]) -> float:
    """The share of the passages of four tokens that are not the first of their kind; 0 where there is none."""
    passages = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), NGRAM) if len(tokens) >= NGRAM else np.zeros((0, NGRAM))
    return 1 - len(np.unique(passages, axis=0)) / len(passages) if len(passages) else 0.0
