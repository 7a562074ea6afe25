from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_talr.theory.walk import check_context, start_token, walk
from tests.helpers.models import ARCHITECTURES
from tests.helpers.tiny import byte_tokenizer
from tests.theory.tiny_models import small


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_steps_see_what_one_forward_sees(family: str) -> None:
    model = small(300, family=family)
    tokens = torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(1))
    seen = []

    def choose(step: int, logits: Tensor) -> Tensor:
        seen.append(logits)
        return tokens[:, step]

    walk(model, 256, 3, 20, choose)
    with torch.no_grad():
        expected = model(torch.cat([torch.full((3, 1), 256), tokens[:, :-1]], 1)).logits
    torch.testing.assert_close(torch.stack(seen, 1), expected, rtol=1e-4, atol=1e-4)


def test_two_walks_see_the_same_bits(model: PreTrainedModel) -> None:
    seen: list[list[Tensor]] = [[], []]
    for logs in seen:
        walk(model, 0, 5, 12, lambda step, logits, logs=logs: logs.append(logits) or logits.argmax(-1))  # type: ignore[misc]
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))


def test_half_precision_is_widened_and_double_stays() -> None:
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        seen: list[torch.dtype] = []
        walk(small(9, dtype=dtype), 0, 1, 2, lambda step, logits, seen=seen: seen.append(logits.dtype) or logits.argmax(-1))  # type: ignore[misc]
        assert seen == [wanted, wanted]


@pytest.mark.parametrize(("family", "expected"), [("llama3", 257), ("qwen2", 258), ("plain", 257)])
def test_a_sequence_begins_after_bos_or_else_eos(family: str, expected: int) -> None:
    assert start_token(byte_tokenizer(family)) == expected


def test_without_either_it_begins_after_token_0() -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.eos_token = None
    assert start_token(tokenizer) == 0


@pytest.mark.parametrize("context", [0, 8193])
def test_a_context_that_the_model_cannot_see_is_refused(model: PreTrainedModel, context: int) -> None:
    with pytest.raises(ValueError, match=f"`context` must be at least 1 and at most the 8192 positions of the model, got {context}"):
        check_context(model, context)
