import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.coder import english, skills
from lit_talr.theory import compress, decompress
from lit_talr.theory.code_length import blocks, token_code_lengths
from lit_talr.theory.walk import start_token
from tests.helpers.models import ARCHITECTURES
from tests.helpers.params import first_is_fast
from tests.helpers.tiny import byte_tokenizer
from tests.theory.test_pieces import lower_case, words
from tests.theory.tiny_models import small

pytest.importorskip("constriction", reason="needs the extra `theory` (constriction)")
FRAME = 32
"""Bytes of header and checksum, of a text that is one piece."""
MODEL, TOKENIZER = small(300), byte_tokenizer()


def round_trip(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[float, float]:
    """Bytes beyond the frame, over what the probabilities as the coder has them ask for, and over the code length; the text must come back."""
    coded = compress(model, tokenizer, text)
    assert decompress(model, tokenizer, coded).encode() == text.encode()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    p = (-torch.cat(token_code_lengths(model, blocks(ids, start_token(tokenizer), 256)))).double().exp()  # type: ignore[arg-type]
    num_vocabulary = model.get_input_embeddings().weight.shape[0]
    asked, ideal = (-float(q.log2().sum()) / 8 for q in ((1 - num_vocabulary / 2**24) * p + 2**-24, p))
    return (len(coded) - FRAME) / asked, (len(coded) - FRAME) / ideal


@pytest.mark.slow
def test_two_kilobytes_come_back_from_as_many_bytes_as_the_probabilities_ask_for(base: PreTrainedModel, base_tokenizer: PreTrainedTokenizerBase) -> None:
    text = skills(base_tokenizer, 2048)
    assert len(text.encode()) == 2048
    assert round_trip(base, base_tokenizer, text)[0] == pytest.approx(1, abs=0.01)  # the last words are some bytes of some hundred


@pytest.mark.slow
def test_where_no_token_is_all_but_impossible_the_size_is_the_code_length() -> None:
    assert round_trip(MODEL, TOKENIZER, "".join(f"{number} is {number**2} squared. " for number in range(300))) == pytest.approx((1, 1), abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["skills", "english"])
def test_64_kilobytes(kind: str, base: PreTrainedModel, base_tokenizer: PreTrainedTokenizerBase) -> None:
    if kind == "english" and "LIT_TALR_DATA" not in os.environ:
        pytest.skip("LIT_TALR_DATA is not set")
    text = skills(base_tokenizer, 65536) if kind == "skills" else english(Path(os.environ["LIT_TALR_DATA"]), 65536)
    of_coder, of_model = round_trip(base, base_tokenizer, text)
    assert of_coder == pytest.approx(1, abs=0.005) and of_model < 1.005


@pytest.mark.parametrize("text", ["", "a", "Zoë \U0001f339", "\0\r\n\x7f", "<eos><pad>", "\ud800 half a character", "long " * 30])
@pytest.mark.parametrize(("context", "rows"), [(1, 1), (7, 3), (256, 64)])
def test_any_text_comes_back_however_it_is_cut(text: str, context: int, rows: int) -> None:
    coded = compress(MODEL, TOKENIZER, text, context, rows)
    assert decompress(MODEL, TOKENIZER, coded) == text


@given(st.text(max_size=40))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_generated_texts_come_back(text: str) -> None:
    assert decompress(MODEL, TOKENIZER, compress(MODEL, TOKENIZER, text)) == text


@pytest.mark.parametrize("tokenizer", [words(), lower_case()], ids=["three words", "lower case"])
def test_what_the_tokenizer_loses_comes_back_too(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "a rose is a Rose, IS A RÖSE; " * 3 + "\udc80"
    assert decompress(MODEL, tokenizer, compress(MODEL, tokenizer, text)) == text


def test_what_the_tokenizer_loses_costs_a_byte_for_a_byte() -> None:
    texts = ["A" * length for length in (400, 800)]
    sizes = [len(compress(MODEL, lower_case(), text)) for text in texts]
    assert sizes[1] - sizes[0] == 400


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("dtype", first_is_fast(torch.bfloat16, torch.float32))
def test_every_family_and_precision(family: str, dtype: torch.dtype) -> None:
    model, text = small(300, family=family, dtype=dtype), "What is coded is decoded. " * 4
    assert decompress(model, TOKENIZER, compress(model, TOKENIZER, text, context=50)) == text


def test_a_token_that_the_model_holds_for_impossible_costs_24_bits() -> None:
    sure = small(300, sharpness=1e6)
    coded = compress(sure, TOKENIZER, "impossible" * 10)
    assert decompress(sure, TOKENIZER, coded) == "impossible" * 10
    assert len(coded) - FRAME <= 100 * 3 + 8


def test_among_equal_tokens_each_costs_log2_of_their_number() -> None:
    assert len(compress(small(512, sharpness=0), TOKENIZER, "x" * 1000)) - FRAME == pytest.approx(1000 * 9 / 8, abs=8)


def test_it_decodes_under_another_number_of_threads_and_leaves_it_alone() -> None:
    before, text = torch.get_num_threads(), "threads " * 20
    coded = compress(MODEL, TOKENIZER, text)
    try:
        torch.set_num_threads(before + 1)
        assert decompress(MODEL, TOKENIZER, coded) == text
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_another_model_or_tokenizer_is_refused() -> None:
    coded = compress(MODEL, TOKENIZER, "only with the same model " * 4)
    for model, tokenizer in ((small(300, seed=1), TOKENIZER), (small(280), TOKENIZER), (MODEL, words()), (MODEL, byte_tokenizer("plain-bos"))):
        with pytest.raises(ValueError, match="The text was coded with another model or tokenizer, or where arithmetic gives other last digits"):
            decompress(model, tokenizer, coded)


def test_a_cut_or_changed_text_is_refused() -> None:
    coded = compress(MODEL, TOKENIZER, "whole")
    for wrong in (coded[:-1], coded[:20], coded + b"\0", coded[:-6] + b"\0" + coded[-5:]):
        with pytest.raises(ValueError, match="The coded text is cut or damaged"):
            decompress(MODEL, TOKENIZER, wrong)
    with pytest.raises(ValueError, match="is not a text coded by lit_talr"):
        decompress(MODEL, TOKENIZER, b"")


def test_refusals() -> None:
    for rows in (0, 65536):
        with pytest.raises(ValueError, match=rf"`rows` must lie in \[1, 65535\], got {rows}"):
            compress(MODEL, TOKENIZER, "a", rows=rows)
    with pytest.raises(ValueError, match="`context` must be at least 1 and at most the 8192 positions"):
        compress(MODEL, TOKENIZER, "a", context=8193)
    with pytest.raises(ValueError, match="`tokenizer` gave the token 257, but the model knows 90 tokens"):
        compress(small(90), TOKENIZER, "a")
