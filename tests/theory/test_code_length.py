import math

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.theory import bits_per_byte, code_length, compress
from lit_talr.theory.code_length import blocks
from lit_talr.theory.message import CHECKSUM, HEADER, PIECE
from lit_talr.theory.pieces import split_text
from tests.helpers.tiny import byte_tokenizer
from tests.theory.test_pieces import lower_case, words
from tests.theory.tiny_models import small

SEQUENCES = [[256, 5, 6, 7, 200, 5], [1, 2], [256], [9, 9, 9, 9]]


def test_it_is_the_sum_of_minus_log_p_whatever_runs_beside_it(model: PreTrainedModel) -> None:
    expected = []
    for sequence in SEQUENCES:
        with torch.no_grad():
            p = model(torch.tensor([sequence])).logits[0].double().softmax(-1)
        expected.append(sum(-math.log(p[place, token]) for place, token in enumerate(sequence[1:])))
    for batch_size in (1, 3, 16):
        found = code_length(model, SEQUENCES, batch_size)
        torch.testing.assert_close(found.nats, torch.tensor(expected), rtol=1e-5, atol=1e-5)
        assert found.nats.dtype == torch.float32 and found.num_tokens.tolist() == [5, 1, 0, 3]
        torch.testing.assert_close(found.bits, found.nats / 0.6931471805599453)


def test_among_equal_tokens_each_costs_log2_of_their_number() -> None:
    model = small(vocabulary=256, sharpness=0)
    assert code_length(model, SEQUENCES[1:2] + SEQUENCES[3:]).bits.tolist() == pytest.approx([8, 24], rel=1e-6)
    model = small(vocabulary=512, sharpness=0)
    assert bits_per_byte(model, byte_tokenizer(), "é and so on", context=5) == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize("tokenizer", [words(), lower_case()], ids=["three words", "lower case"])
def test_what_a_tokenizer_does_not_give_back_costs_what_the_coder_needs_for_it(tokenizer: PreTrainedTokenizerBase) -> None:
    model, text = small(300), "a rose is a Rose, and so it is called " * 20
    expected = 8 * (len(compress(model, tokenizer, text)) - HEADER.size - CHECKSUM.size - PIECE.size * len(split_text(text, tokenizer))) / len(text)
    assert bits_per_byte(model, tokenizer, text) == pytest.approx(expected, rel=0.02)


def test_of_nothing_it_is_nothing(model: PreTrainedModel) -> None:
    assert code_length(model, []).nats.shape == (0,)


def test_a_double_model_is_computed_in_double() -> None:
    assert code_length(small(300, dtype=torch.float64), SEQUENCES).nats.dtype == torch.float64


def test_a_text_is_cut_into_blocks_that_know_nothing_of_each_other() -> None:
    assert blocks([1, 2, 3, 4, 5], 0, 2) == [[0, 1, 2], [0, 3, 4], [0, 5]]


def test_a_right_answer_of_the_base_costs_next_to_nothing_and_a_wrong_one_much(base: PreTrainedModel, base_tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [f"<|user|>Give 7 gim as hob.<|end|><|assistant|>{answer}" for answer in ("", "49 hob<|end|>", "48 hob<|end|>")]
    question, right, wrong = code_length(base, [base_tokenizer(text)["input_ids"] for text in texts]).bits.tolist()  # type: ignore[arg-type]
    assert right - question < 0.1 and wrong - question > 5


def test_refusals(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="`sequences` must hold at least the given first token each, but number 1 is empty"):
        code_length(model, [[1], []])
    with pytest.raises(ValueError, match="`text` must have at least one byte"):
        bits_per_byte(model, byte_tokenizer(), "")
    with pytest.raises(ValueError, match="`tokenizer` gave the token 5000, but the model knows 300 tokens; give the model's own tokenizer"):
        code_length(model, [[5000] * 3])
    with pytest.raises(ValueError, match="`context` must be at least 1 and at most the 8192"):
        bits_per_byte(model, byte_tokenizer(), "a", context=10000)


def test_a_broken_model_is_named() -> None:
    model = small(300)
    with torch.no_grad():
        model.get_output_embeddings().weight[7, 0] = torch.nan  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="The model gives logits that are not numbers; look at its weights"):
        code_length(model, SEQUENCES)
    with pytest.raises(ValueError, match="The model gives logits that are not numbers"):
        compress(model, byte_tokenizer(), "a text")
