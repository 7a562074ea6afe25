"""A small random twin of a model, on which this package is compared with transformers' own logits."""

import json
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from lit_talr.data.encoded import Packing
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.strategies import whole_models
from lit_talr.modeling.twin_config import NUM_PLAIN_TOKENS, WINDOW, twin_fields
from lit_talr.utils.errors import first_line

MOST_WEIGHTS = 2e7
"""More are not small: the sizes have names that are not known here."""
LENGTHS = (WINDOW + 4, 2 * WINDOW + 5)
"""Tokens of two documents, both longer than a sliding window of the twin."""


class TwinErrors(NamedTuple):
    """How far this package is from transformers' own logits, on a twin."""

    nll: float  # nats, the largest of all tokens, with a padded row
    gradient: float  # the largest of all weights, relative to the weight's gradient
    packed: float  # nats, the largest of all tokens of two documents in one row


def twin_errors(config: PretrainedConfig, attention: str | None) -> TwinErrors:
    """Compares a model's twin with transformers, once for each configuration in a process; on the CPU in float32, and draws no random numbers.

    Raises:
        ValueError: If there is no twin, or it cannot be run, with the cause.
    """
    try:
        fields = json.dumps(twin_fields(config), sort_keys=True)
        return measure(type(config), fields, attention if attention in ("eager", "sdpa") else None)  # type: ignore[arg-type]
    except Exception as error:  # whatever a model's code raises
        raise ValueError(
            f"Models of type `{config.model_type}` are not supported: a small random one, on which this package is compared with the model's own logits, "
            f"must run on a CPU, and does not ({type(error).__name__}: {first_line(error)}); choose another model (docs/families.md has those that pass)."
        ) from error


@cache
def measure(config_class: type[PretrainedConfig], fields: str, attention: str | None) -> TwinErrors:
    with whole_models(), torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        model = twin(config_class.from_dict(json.loads(fields)), attention)
        documents = torch.randint(0, NUM_PLAIN_TOKENS, (sum(LENGTHS) + 2,)).split([size + 1 for size in LENGTHS])
        weights = torch.rand(sum(LENGTHS))
        own = torch.cat([plain_nll(model.eval(), document) for document in documents])
        expected = gradients(own, weights, model)
        backbone = Backbone(model.train())
        nll, packed = padded_nll(backbone, documents), packed_nll(backbone, documents)
        return TwinErrors(difference(nll, own), gradient_error(gradients(nll, weights, model), expected), difference(packed, own))


def twin(config: PretrainedConfig, attention: str | None) -> PreTrainedModel:
    """Builds a model and draws the weights of its decoder and head; those of other parts, such as a vision tower, are never read."""
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if not hasattr(decoder, "layers") or not isinstance(head, nn.Linear):
        raise ValueError("it needs a decoder with `layers`, and a linear head")
    if (size := sum(weight.numel() for weight in decoder.parameters())) > MOST_WEIGHTS:
        raise ValueError(f"the twin has {size:,} weights")
    decoder.initialize_weights()
    model.tie_weights()
    for weight in head.parameters():
        nn.init.normal_(weight, std=3 * config.get_text_config().initializer_range)  # so that a soft-cap bends the logits
    return model


def plain_nll(model: PreTrainedModel, document: Tensor) -> Tensor:
    """``[T]`` by the model's own logits."""
    logits = model(input_ids=document[None, :-1], use_cache=False).logits[0]
    return functional.cross_entropy(logits.float(), document[1:], reduction="none")


def padded_nll(backbone: Backbone, documents: tuple[Tensor, ...]) -> Tensor:
    """``[T]`` by this package, one document a row."""
    ids = nn.utils.rnn.pad_sequence([document[:-1] for document in documents], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([document[1:] for document in documents], batch_first=True, padding_value=IGNORE_INDEX)
    return backbone(ids, labels).nll[labels != IGNORE_INDEX]


@torch.no_grad()
def packed_nll(backbone: Backbone, documents: tuple[Tensor, ...]) -> Tensor:
    """``[T]`` by this package, all documents in one row."""
    ids, labels = (torch.cat(parts)[None] for parts in zip(*((document[:-1], document[1:]) for document in documents), strict=True))
    positions = torch.cat([torch.arange(size) for size in LENGTHS])[None]
    boundaries = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return backbone(ids, labels, Packing(positions, boundaries, max(LENGTHS))).nll[0]


def gradients(nll: Tensor, weights: Tensor, model: PreTrainedModel) -> list[Tensor]:
    """Gradients of a weighted sum, for each weight of decoder and head."""
    head = model.get_output_embeddings()
    parameters = list(dict.fromkeys([*model.get_decoder().parameters(), *head.parameters()]))
    return list(torch.autograd.grad((weights * nll).sum(), parameters, allow_unused=True, materialize_grads=True))


def difference(left: Tensor, right: Tensor) -> float:
    return (left - right).abs().max().item()


def gradient_error(left: list[Tensor], right: list[Tensor]) -> float:
    """Largest difference of a weight's gradients, relative to its norm; gradients that are zero but for rounding count less."""
    whole = torch.stack([gradient.norm() for gradient in right]).norm()
    errors = [(one - other).norm() / (other.norm() + 1e-3 * whole) for one, other in zip(left, right, strict=True)]
    return torch.stack(errors).max().item()
