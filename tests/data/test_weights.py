"""Weights of the data come to the tokens that they are meant for."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_talr.data.batch_plan import MicroBatch
from lit_talr.data.encoded import EncodedExamples, data_weights
from lit_talr.data.encoder import ChatEncoder, Encoded
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Insertion, Message, Weight
from lit_talr.data.token_cache import encode_row
from lit_talr.data.weights import token_weights
from tests.helpers.published import NEEDS_DATA, published_tokenizer
from tests.helpers.tiny import byte_alphabet, byte_tokenizer

START, END = 257, 258  # <|im_start|>, <|im_end|>
QWEN2 = ChatEncoder(byte_tokenizer("qwen2"), Encoding())
TURNS = [Message(role=("user", "assistant")[index % 2], content=text) for index, text in enumerate(("1", "ab", "3", "cd"))]


def example(response: str, *weights: Weight, weight: float = 1.0, prompt: str = "Q") -> Example:
    return replace(Example.from_prompt(prompt, response), weights=weights, weight=weight)


def learned(row: Encoded) -> list[tuple[int, float]]:
    """The supervised tokens, each with its weight."""
    weights = np.ones(len(row.input_ids)) if row.weights is None else row.weights
    return list(zip(row.input_ids[row.supervised].tolist(), weights[row.supervised].tolist(), strict=True))


def test_without_weights_there_are_none() -> None:
    row = QWEN2.encode(example("xyz", Weight(1, 1.0), Weight(1, 1.0, (0, 2))))
    assert row.weights is None and row.supervised.sum() == 4
    assert EncodedExamples([row], 0)[MicroBatch((0,), 4)]["weights"] is None


def test_row_turn_and_span_multiply_and_zero_carries_no_loss() -> None:
    row = QWEN2.encode(example("uvwxyz", Weight(1, 3.0), Weight(1, 0.5, (1, 3)), Weight(1, 0, (4, 5)), weight=2.0))
    assert learned(row) == [(ord("u"), 6), (ord("v"), 3), (ord("w"), 3), (ord("x"), 6), (ord("z"), 6), (END, 6)]
    assert row.weights is not None and row.weights.dtype == np.float32
    whole = QWEN2.encode(example("uvwxyz"))
    assert row.input_ids.tolist() == whole.input_ids.tolist() and whole.supervised.sum() - row.supervised.sum() == 1


def test_each_turn_has_its_own() -> None:
    row = QWEN2.encode(Example(TURNS, (1, 3), weights=[Weight(3, 2.0), Weight(1, 0.5, (1, 2))]))
    assert learned(row) == [(ord("a"), 1), (ord("b"), 0.5), (END, 1), (ord("c"), 2), (ord("d"), 2), (END, 2)]


def test_prompts_have_a_weight_of_their_own() -> None:
    coder = ChatEncoder(QWEN2.tokenizer, Encoding(prompt_weight=0.25))
    row, plain = coder.encode(example("xy", weight=2.0)), QWEN2.encode(example("xy"))
    assert row.weights is not None and not row.supervised[0] and row.supervised[1:].all()  # nothing predicts the first token
    assert row.weights[1:].tolist() == [2.0 if mask else 0.5 for mask in plain.supervised[1:]]
    assert coder.encode_prompt(example("xy").prompt) == QWEN2.encode_prompt(example("xy").prompt)
    assert ChatEncoder(QWEN2.tokenizer, Encoding(prompt_weight=1)).encode(example("xy")).weights is None
    with pytest.raises(ValueError, match=r"`encoding.prompt_weight` must lie in \[0, inf\), got nan"):
        Encoding(prompt_weight=float("nan"))


def test_a_turn_that_is_left_out_is_no_prompt() -> None:
    coder = ChatEncoder(QWEN2.tokenizer, Encoding(prompt_weight=0.5))
    row = coder.encode(Example(TURNS, (3,), weights=[Weight(1, 0)]))
    out = row.input_ids[~row.supervised].tolist()
    assert out == [START, ord("a"), ord("b"), END]
    assert coder.encode(Example(TURNS, (3,))).supervised[1:].all()
    with pytest.raises(ValueError, match="Turn 2 is not to be learned, but `encoding.prompt_weight` is 0.5, and of the turns before a response only an assi"):
        coder.encode(Example(TURNS, (3,), weights=[Weight(2, 0)]))
    rewriting = ChatEncoder(byte_tokenizer("qwen3"), Encoding(prompt_weight=0.5))
    with pytest.raises(ValueError, match="Turn 1 is not to be learned"):
        rewriting.encode(Example([TURNS[0], {**TURNS[1], "content": "<think>t</think>ab"}, *TURNS[2:]], (3,), weights=[Weight(1, 0)]))


def test_a_prompt_that_is_cut_keeps_the_weights_of_its_response() -> None:
    one = example("xyz", Weight(1, 2.0, (1, 2)), prompt="Q" * 30)
    whole = QWEN2.encode(one)
    cut = ChatEncoder(QWEN2.tokenizer, Encoding(max_length=len(whole.input_ids) - 9, too_long="truncate_prompt")).encode(one)
    assert cut.truncated == 9 and learned(cut) == learned(whole) == [(ord("x"), 1), (ord("y"), 2), (ord("z"), 1), (END, 1)]


def test_insertions_have_the_weight_of_their_turn() -> None:
    row = QWEN2.encode(replace(example("xy", Weight(1, 2.0), Weight(1, 3.0, (0, 2))), insertions=[Insertion(1, 1, "!")]))
    assert learned(row) == [(ord("x"), 6), (ord("!"), 2), (ord("y"), 6), (END, 2)]


def test_text_that_looks_like_a_special_token_has_its_characters() -> None:
    row = QWEN2.encode(example("<|im_end|>b", Weight(1, 2.0, (9, 11))))
    assert learned(row)[-3:] == [(ord(">"), 2), (ord("b"), 2), (END, 1)]


def test_white_space_that_a_template_removes_has_none() -> None:
    coder = ChatEncoder(byte_tokenizer("llama3"), Encoding())
    row = coder.encode(example("  ab  ", Weight(1, 2.0, (0, 3)), Weight(1, 3.0, (4, 6))))
    assert [weight for _, weight in learned(row)] == [2, 1, 1]
    kept = QWEN2.encode(example(" a ", Weight(1, 2.0, (0, 1)), Weight(1, 3.0, (2, 3))))
    assert [weight for _, weight in learned(kept)] == [2, 1, 3, 1]


def test_a_token_has_the_weight_of_most_of_its_characters() -> None:
    characters = np.array([1, 2, 2, 0, 0, 3.0])
    ends = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 6), (2, 6), (5, 5), (6, 6)]
    assert token_weights(characters, [begin for begin, _ in ends], [end for _, end in ends]) == [1, 2, 2, 2, 0, 0, 0, 3, 1]


def test_batches_have_them_beside_the_labels_packed_or_not() -> None:
    rows = [QWEN2.encode(example("xyz", Weight(1, 2.0, (1, 2)))), QWEN2.encode(example("x"))]
    examples = EncodedExamples(rows, 0)
    for packed in (False, True):
        batch = examples[MicroBatch((1, 0), 6, packed)]
        weights, mask = data_weights(batch, torch.zeros(1, dtype=torch.float64)), batch["labels"] >= 0
        assert weights is not None and weights.dtype == torch.float64 and weights[mask].tolist() == [1, 1, 1, 2, 1, 1]
        assert batch["weights"] is not None and not batch["weights"].is_floating_point()  # DeepSpeed would round it
    assert examples[MicroBatch((), 6)]["weights"] is not None


def test_a_concatenation_has_the_weights_of_both_and_its_own_hash() -> None:
    plain, weighted = (EncodedExamples([QWEN2.encode(example("xy", *weights))], 0) for weights in ((), (Weight(1, 2.0),)))
    assert plain.followed_by(plain).weights is None
    both = plain.followed_by(weighted)
    assert both.weights is not None and both.weights[both.supervised].tolist() == [1, 1, 1, 2, 2, 2]
    assert plain.content_hash == plain.token_hash == weighted.token_hash != weighted.content_hash
    assert both.token_hash == plain.followed_by(plain).token_hash and both.content_hash == plain.followed_by(weighted).content_hash != both.token_hash


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (example("xy", weight=0), "The weight of this row is 0, so nothing of it would be learned; leave the row out."),
        (example("xy", weight=-1), "`weight` must be a finite number of at least 0 that float32 can hold, got -1; correct it, or leave it out."),
        (example("xy", Weight(1, float("inf"))), "`weight of turn 1` must be a finite number of at least 0 that float32 can hold, got inf;"),
        (example("xy", Weight(1, 0)), "Turn 1 is to be learned, and its weight is 0; leave it out of `supervised`."),
        (example("xy", Weight(0, 2.0)), "A weight must name a turn of `supervised`, (1,), got 0; leave it out."),
        (example("xy", Weight(7, 0)), "A weight must name a turn of `supervised`, (1,), got 7; leave it out."),
        (example("xy", Weight(1, 2.0), Weight(1, 3.0)), "Turn 1 has several weights; give one, or name spans."),
        (example("xy", Weight(1, 2.0, (0, 3))), "`weights of turn 1` must name spans within the 2 characters of the text, start < end, got [0, 3); correct it"),
        (example("xy", Weight(1, 2.0, (1, 1))), "`weights of turn 1` must name spans within the 2 characters of the text, start < end, got [1, 1);"),
        (example("xyz", Weight(1, 2.0, (1, 3)), Weight(1, 3.0, (0, 2))), "`weights of turn 1` must name spans that do not overlap, got [0, 2) and [1, 3);"),
        (
            example("xyz", Weight(1, 1e-30, (1, 3)), weight=1e-30),
            "The weights of its tokens, as products, reach from 1e-60 to 1e-30, which float32 cannot hold; bring them nearer to 1.",
        ),
    ],
)
def test_refuses_by_file_and_row(one: Example, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"rows.csv: row 3: {sentence}")):
        encode_row(QWEN2, replace(one, meta={"where": "rows.csv: row 3"}))


def test_refuses_a_content_of_parts() -> None:
    parts: Any = [{"type": "text", "text": "ab"}]
    messages = [Message(role="user", content="Q"), Message(role="assistant", content=parts)]
    with pytest.raises(ValueError, match="`weights of turn 1` needs a `content` that is one text, got list; write it as one"):
        QWEN2.encode(Example(messages, (1,), weights=[Weight(1, 2.0, (0, 1))]))


def test_refuses_a_text_that_the_template_changes() -> None:
    template = byte_tokenizer("qwen2").chat_template.replace("turn.content", "(turn.content | replace('  ', ' '))")
    coder = ChatEncoder(byte_tokenizer("qwen2", template), Encoding())
    with pytest.raises(ValueError, match="The chat template must write the text of turn 1 as it is, since places in it are named"):
        coder.encode(example("x  y", Weight(1, 2.0, (0, 1))))


# Published tokenizers

BYTES = {character: byte for byte, character in enumerate(byte_alphabet())}
WORDS = ["one", " two", "é", "漢字", "👩🏽‍🚀", "\n\n", "  ", "x = 3.14;", "don't", "한국어", "\t", "𓀀", "<|im_end|>", "<end_of_turn>", ". ", "12345", "ẞß"]


def piece_bytes(piece: str, byte_level: bool) -> bytes:
    """The bytes of a token of plain text, from its name in the vocabulary."""
    if byte_level:
        return bytes(BYTES[character] for character in piece)
    return bytes([int(piece[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", piece) else piece.replace("▁", " ").encode()


@pytest.mark.slow
@NEEDS_DATA
@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama3_1", "gemma3"])
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).filter(lambda words: "".join(words).strip()), st.data())
@settings(deadline=None, max_examples=25)
def test_published_tokenizers_give_tokens_the_weights_of_their_characters(name: str, words: list[str], data: st.DataObject) -> None:
    """The places are counted in the bytes of the vocabulary's pieces, without the tokenizer's offsets."""
    coder, text = encoder_of(name), "".join(words).strip()
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = list(zip(places[::2], places[1::2], strict=False))
    row = coder.encode(example(text, *(Weight(1, 2.0 + index, span) for index, span in enumerate(spans)), weight=0.5))
    first = int(row.supervised.argmax())
    characters = [next((2.0 + index for index, (begin, end) in enumerate(spans) if begin <= at < end), 1.0) for at in range(len(text))]
    at, length, starts = 0, len(text.encode()), np.repeat(np.arange(len(text)), [len(character.encode()) for character in text])
    lead = b"<think>\n\n</think>\n\n" if name == "qwen3" else b""
    for position in range(first, len(row.input_ids)):
        token = coder.tokenizer.convert_ids_to_tokens(int(row.input_ids[position]))
        piece = piece_bytes(token, name != "gemma3") if at < len(lead) + length else b""
        own = starts[max(0, at - len(lead)) : max(0, at + len(piece) - len(lead))]
        counts: dict[float, int] = {}
        for character in dict.fromkeys(own.tolist()):
            weight = characters[character]
            counts[weight] = counts.pop(weight, 0) + 1  # the latest last
        expected = max(reversed(counts), key=lambda weight: counts[weight]) if counts else 1.0
        assert (1.0 if row.weights is None else row.weights[position]) == expected / 2
        at += len(piece)
    assert at >= len(lead) + length


def encoder_of(name: str) -> ChatEncoder:
    if name not in ENCODERS:
        ENCODERS[name] = ChatEncoder(published_tokenizer(name), Encoding())
    return ENCODERS[name]


ENCODERS: dict[str, ChatEncoder] = {}
