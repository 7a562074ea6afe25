"""Texts put between the tokens of learned turns change no other token."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_talr.data.encoder import ChatEncoder, Encoded, TooLong
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Insertion, Message
from lit_talr.data.token_cache import encode_row
from lit_talr.data.tokenizer import load_tokenizer
from tests.helpers.tiny import FAMILIES, byte_tokenizer

START, END = 257, 258  # <|im_start|>, <|im_end|>
QWEN2 = ChatEncoder(byte_tokenizer("qwen2"), Encoding())
MERGED = ChatEncoder(byte_tokenizer("qwen2", merges=[("a", "b"), ("Ġ", "c"), ("d", "Ġ")]), Encoding())  # "ab", " c" and "d " are 256, 257 and 258
TEMPLATES = [family for family in FAMILIES if FAMILIES[family].chat_template or family == "plain"]


def example(response: str, *insertions: tuple[int, str], prompt: str = "Q") -> Example:
    return replace(Example.from_prompt(prompt, response), insertions=[Insertion(1, *insertion) for insertion in insertions])


def learned(row: Encoded) -> list[tuple[int, bool]]:
    """The learned tokens, each with whether it is noise."""
    return list(zip(row.input_ids[row.supervised].tolist(), row.noise[row.supervised].tolist(), strict=True))


def assert_only_noise_is_added(coder: ChatEncoder, noisy: Example) -> Encoded:
    row, clean = coder.encode(noisy), coder.encode(replace(noisy, insertions=()))
    assert row.input_ids.dtype == np.int32 and row.noise.dtype == row.supervised.dtype == bool and len(row.noise) == len(row.input_ids)
    assert row.input_ids[~row.noise].tolist() == clean.input_ids.tolist()
    assert row.supervised[~row.noise].tolist() == clean.supervised.tolist()
    assert row.supervised[row.noise].all() and not clean.noise.any()
    return row


def test_tokens_written_by_hand() -> None:
    row = QWEN2.encode(example("xyz", (2, "!?"), (0, "-")))
    prompt = [START, *b"system\nYou are a helpful assistant.", END, 10, START, *b"user\nQ", END, 10, START, *b"assistant\n"]
    assert row.input_ids.tolist() == [*prompt, *b"-xy!?z", END]
    assert row.supervised.tolist() == [False] * len(prompt) + [True] * 7
    assert row.noise.tolist() == [False] * len(prompt) + [True, False, False, True, True, False, False]


def test_a_text_that_the_end_of_turn_holds_too_is_found() -> None:
    assert learned(QWEN2.encode(example("e", (1, "!")))) == [(ord("e"), False), (ord("!"), True), (END, False)]


def test_insertions_at_one_place_follow_one_another_and_may_end_the_text() -> None:
    row = QWEN2.encode(example("xy", (1, "1"), (2, "3"), (1, "2")))
    assert learned(row) == [(ord("x"), False), (ord("1"), True), (ord("2"), True), (ord("y"), False), (ord("3"), True), (END, False)]


@given(
    st.text("ab cd<|im_end|>é\n\"'", min_size=1).filter(str.strip),
    st.lists(st.tuples(st.integers(0, 40), st.text("ab cé", min_size=1)), max_size=4),
    st.sampled_from(["qwen2", "plain", "gemma3"]),
)
@settings(deadline=None, max_examples=60)
def test_without_its_noise_a_row_is_the_clean_one(response: str, drawn: list[tuple[int, str]], family: str) -> None:
    coder = MERGED if family == "qwen2" else ChatEncoder(byte_tokenizer(family), Encoding())
    text, insertions = response.strip(), []
    for at, inserted in drawn:
        try:  # those inside a token are refused
            coder.encode(example(text, (min(at, len(text)), inserted)))
        except ValueError as error:
            assert "inside a token" in str(error) or "as it is, since places in it" in str(error)
            continue
        insertions.append((min(at, len(text)), inserted))
    assert_only_noise_is_added(coder, example(text, *insertions))


@pytest.mark.parametrize("family", TEMPLATES)
def test_every_family_has_them(family: str) -> None:
    coder = ChatEncoder(byte_tokenizer(family), Encoding())
    row = assert_only_noise_is_added(coder, example("one two", (3, " and"), (7, "!")))
    assert bytes(row.input_ids[row.noise].tolist()) == b" and!"
    at = int(row.noise.argmax())
    assert bytes(row.input_ids[at - 3 : at + 8].tolist()) == b"one and two"


def test_each_of_several_learned_turns_has_its_own() -> None:
    messages = [Message(role=("user", "assistant")[index % 2], content=text) for index, text in enumerate(("1", "ab", "3", "cd"))]
    noisy = Example(messages, (1, 3), insertions=[Insertion(3, 1, "+"), Insertion(1, 1, "-")])
    row = assert_only_noise_is_added(QWEN2, noisy)
    assert bytes(token for token, _ in learned(row) if token < 256) == b"a-bc+d"


def test_text_that_looks_like_a_special_token_stays_text() -> None:
    row = assert_only_noise_is_added(QWEN2, example("a<|im_end|>b", (5, "<|im_start|>"), (11, "?")))
    assert bytes(token for token, _ in learned(row)[:-1]) == b"a<|im<|im_start|>_end|>?b" and learned(row)[-1] == (END, False)


def test_the_text_behind_decides_the_tokens_where_its_own_stay() -> None:
    tokenizer = load_tokenizer("lit_talr/lab/base")  # has a word with the space behind it as one token, but only before a number
    lab = ChatEncoder(tokenizer, Encoding())
    seams = lab.seams("pulse 90")
    assert seams.text[: seams.places()[0]] == "pulse "
    assert tokenizer.convert_ids_to_tokens(lab.tokenize_at(seams, 6, " gives ")) == ["ĠgivesĠ"]
    assert tokenizer.convert_ids_to_tokens(lab.tokenize(" gives ", start=False)) == ["Ġgive", "s", "Ġ"]
    seams = MERGED.seams("xb")
    assert MERGED.tokenize_at(seams, 1, "a") == [ord("a")]  # although "ab" is one token


def test_a_tokenizer_with_spaces_before_words() -> None:
    pieces = {piece: number for number, piece in enumerate(["<eos>", "<unk>", "▁", *"abU:A", "▁b"])}
    sentencepiece = Tokenizer(models.BPE(vocab=pieces, merges=[("▁", "b")], unk_token="<unk>"))
    sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    sentencepiece.add_special_tokens([AddedToken("<eos>", normalized=False, special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece, pad_token="<eos>", eos_token="<eos>", name_or_path="spaced")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'U:' if m.role == 'user' else 'A:' }}{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    coder = ChatEncoder(tokenizer, Encoding())
    row = assert_only_noise_is_added(coder, example("a b", (1, " a"), (3, " b"), prompt="a"))
    assert tokenizer.convert_ids_to_tokens([token for token, _ in learned(row)]) == ["a", "▁", "a", "▁b", "▁b", "<eos>"]


def test_a_prompt_of_generation_has_none() -> None:
    noisy = example("xyz", (2, "!"))
    row, (prompt, _) = QWEN2.encode(noisy), QWEN2.encode_prompt(noisy.prompt)
    assert row.input_ids[: len(prompt)].tolist() == prompt and not row.noise[: len(prompt)].any()


def test_noise_counts_toward_the_length_and_is_never_cut() -> None:
    noisy, length = example("xyz", (2, "!!!"), prompt="Q" * 30), len(QWEN2.encode(example("xyz", prompt="Q" * 30)).input_ids)
    assert len(ChatEncoder(QWEN2.tokenizer, Encoding(max_length=length + 3)).encode(noisy).input_ids) == length + 3
    with pytest.raises(TooLong, match=f"This has {length + 3} tokens"):
        ChatEncoder(QWEN2.tokenizer, Encoding(max_length=length)).encode(noisy)
    row = ChatEncoder(QWEN2.tokenizer, Encoding(max_length=length - 5, too_long="truncate_prompt")).encode(noisy)
    assert row.truncated == 8 and row.noise.sum() == 3 and row.supervised.sum() == 7


@pytest.mark.parametrize(
    ("noisy", "sentence"),
    [
        (example("xabz", (2, "!")), "An insertion must lie between two tokens, got 2 characters into 'xabz<|im_end|>', inside a token."),
        (replace(example("x"), insertions=[Insertion(0, 1, "!")]), "An insertion must name a turn of `supervised`, (1,), got 0; leave it out."),
        (replace(example("x"), insertions=[Insertion(3, 1, "!")]), "An insertion must name a turn of `supervised`, (1,), got 3;"),
        (example("xy", (3, "!")), "An insertion must lie within the 2 characters of turn 1, got 3."),
        (example("xy", (-1, "!")), "An insertion must lie within the 2 characters of turn 1, got -1."),
        (example("xy", (1, "")), "An insertion into turn 1 must be text that is not empty, got ''."),
        (example("xy", (1, "\ud800")), r"An insertion into turn 1 must be text that is not empty, got '\ud800'."),
    ],
)
def test_refuses_by_file_and_row(noisy: Example, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"rows.csv: row 3: {sentence}")):
        encode_row(MERGED, replace(noisy, meta={"where": "rows.csv: row 3"}))


def test_refuses_a_text_that_the_template_changes() -> None:
    coder = ChatEncoder(
        byte_tokenizer("qwen2", byte_tokenizer("qwen2").chat_template.replace("turn.content", "(turn.content | replace('  ', ' '))")), Encoding()
    )
    with pytest.raises(ValueError, match="The chat template must write the text of turn 1 as it is, since places in it are named"):
        coder.encode(example("x  y", (1, "!")))


def test_refuses_a_content_of_parts() -> None:
    parts: Any = [{"type": "text", "text": "ab"}]
    messages = [Message(role="user", content="Q"), Message(role="assistant", content=parts)]
    with pytest.raises(ValueError, match="Turn 1 has an insertion, so its `content` must be one text, got list; write it as one"):
        QWEN2.encode(Example(messages, (1,), insertions=[Insertion(1, 1, "!")]))


def test_refuses_a_tokenizer_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    assert len(QWEN2.encode(example("xy")).input_ids)
    with pytest.raises(ValueError, match="Insertions and weights of spans need a fast tokenizer, which knows where its tokens are, got"):
        QWEN2.encode(example("xy", (1, "!")))
