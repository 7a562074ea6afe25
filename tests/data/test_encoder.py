import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_talr.data.encoder import ChatEncoder, Encoded, TooLong
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message
from lit_talr.data.messages import GUARD, MARK
from tests.helpers.tiny import FAMILIES, byte_tokenizer

START, END = 257, 258  # <|im_start|>, <|im_end|>
BOS, HEAD, HEAD_END, EOT = 257, 258, 259, 260  # of Llama 3
GEMMA_EOS, GEMMA_BOS, TURN, TURN_END = 257, 258, 259, 260


def encoder(family: str = "qwen2", template: str | None = None, **options: Any) -> ChatEncoder:
    return ChatEncoder(byte_tokenizer(family, template), Encoding(**options))


def talk(*texts: str, system: str | None = None, learned: tuple[int, ...] | None = None) -> Example:
    """User and assistant in turn; the last turn is learned by default."""
    messages = [Message(role="system", content=system)] if system is not None else []
    messages += [Message(role=("user", "assistant")[index % 2], content=text) for index, text in enumerate(texts)]
    return Example(messages, learned or (len(messages) - 1,))


def parts(row: Encoded) -> list[tuple[list[int], bool]]:
    """The row as runs of learned and unlearned tokens."""
    runs: list[tuple[list[int], bool]] = []
    for token, learned in zip(row.input_ids.tolist(), row.supervised.tolist(), strict=True):
        if not runs or runs[-1][1] != learned:
            runs.append(([], learned))
        runs[-1][0].append(token)
    return runs


def assert_prompts_are_those_of_generation(coder: ChatEncoder, example: Example) -> None:
    row = coder.encode(example)
    starts = [at for at in range(1, len(row.supervised)) if row.supervised[at] and not row.supervised[at - 1]]
    assert len(starts) == len(example.supervised)
    for turn, start in zip(example.supervised, starts, strict=True):
        assert coder.encode_prompt(example.messages[:turn]) == (row.input_ids[:start].tolist(), 0)


class TestFamilies:
    def test_the_tokenizer_is_its_own_byte_table(self) -> None:
        assert byte_tokenizer("qwen2")("é\n~<|im_end|>").input_ids == [0xC3, 0xA9, 10, 126, 258]

    def test_qwen2(self) -> None:
        row = encoder("qwen2").encode(talk("Hi", "Yo", system="S"))
        prompt = [START, *b"system\nS", END, 10, START, *b"user\nHi", END, 10, START, *b"assistant\n"]
        assert parts(row) == [(prompt, False), ([*b"Yo", END], True)]
        assert row.truncated == 0

    def test_qwen2_adds_its_own_system_turn_and_learns_two_turns(self) -> None:
        coder, example = encoder("qwen2"), talk("1", "2", "3", "4", learned=(1, 3))
        assert parts(coder.encode(example)) == [
            ([START, *b"system\nYou are a helpful assistant.", END, 10, START, *b"user\n1", END, 10, START, *b"assistant\n"], False),
            ([*b"2", END], True),
            ([10, START, *b"user\n3", END, 10, START, *b"assistant\n"], False),
            ([*b"4", END], True),
        ]
        assert_prompts_are_those_of_generation(coder, example)

    def test_qwen3_thinks_in_the_answer_or_has_an_empty_block_in_the_prompt(self) -> None:
        example = talk("Hi", "<think>\nhm\n</think>\n\nYo")
        prompt = [START, *b"user\nHi", END, 10, START, *b"assistant\n"]
        assert parts(encoder("qwen3").encode(example)) == [(prompt, False), ([259, *b"\nhm\n", 260, *b"\n\nYo", END], True)]
        coder = encoder("qwen3", template_arguments={"enable_thinking": False})
        assert parts(coder.encode(talk("Hi", "Yo"))) == [([*prompt, 259, 10, 10, 260, 10, 10], False), ([*b"Yo", END], True)]
        assert_prompts_are_those_of_generation(coder, talk("Hi", "Yo"))

    def test_qwen3_learns_the_last_of_several_turns(self) -> None:
        coder, example = encoder("qwen3"), talk("1", "<think>\nhm\n</think>\n\n2", "3", "4")
        prompt = [START, *b"user\n1", END, 10, START, *b"assistant\n2", END, 10, START, *b"user\n3", END, 10, START, *b"assistant\n"]
        assert parts(coder.encode(example)) == [(prompt, False), ([259, 10, 10, 260, *b"\n\n4", END], True)]
        assert_prompts_are_those_of_generation(coder, example)

    def test_llama3_has_one_bos_and_no_glue(self) -> None:
        coder, example = encoder("llama3"), talk("1", " 2\n", "3", "4", system="S", learned=(2, 4))
        user, assistant = [HEAD, *b"user", HEAD_END, 10, 10], [HEAD, *b"assistant", HEAD_END, 10, 10]
        assert parts(coder.encode(example)) == [
            ([BOS, HEAD, *b"system", HEAD_END, *b"\n\nS", EOT, *user, *b"1", EOT, *assistant], False),
            ([*b"2", EOT], True),
            ([*user, *b"3", EOT, *assistant], False),
            ([*b"4", EOT], True),
        ]
        assert_prompts_are_those_of_generation(coder, example)

    def test_gemma3_calls_the_assistant_model_and_prepends_the_system_text(self) -> None:
        coder, example = encoder("gemma3"), talk("1", "2", "3", "4", system="S", learned=(2, 4))
        assert parts(coder.encode(example)) == [
            ([GEMMA_BOS, TURN, *b"user\nS\n\n1", TURN_END, 10, TURN, *b"model\n"], False),
            ([*b"2", TURN_END], True),
            ([10, TURN, *b"user\n3", TURN_END, 10, TURN, *b"model\n"], False),
            ([*b"4", TURN_END], True),
        ]
        assert_prompts_are_those_of_generation(coder, example)

    def test_gemma2_without_a_system_turn(self) -> None:
        row = encoder("gemma2").encode(talk("1", "2"))
        assert parts(row) == [([GEMMA_BOS, TURN, *b"user\n1", TURN_END, 10, TURN, *b"model\n"], False), ([*b"2", TURN_END], True)]

    def test_stop_tokens_are_the_end_token_and_the_end_of_turn(self) -> None:
        assert {family: encoder(family).stop_token_ids for family in FAMILIES} == {
            "qwen2": (END,),
            "qwen3": (END,),
            "llama3": (EOT,),
            "gemma2": (GEMMA_EOS, TURN_END),
            "gemma3": (GEMMA_EOS, TURN_END),
            "plain": (257,),
            "plain-bos": (257,),
        }

    def test_a_template_from_a_file_replaces_the_own_one(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.jinja"
        file.write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
        coder = encoder("qwen2", chat_template=file)
        assert parts(coder.encode(talk("1", "2"))) == [([*b"1", END], False), ([*b"2", END], True)]
        assert coder.tokenizer.chat_template == file.read_text()  # which exports carry


class TestWithoutTemplate:
    def test_texts_are_joined_with_blank_lines(self) -> None:
        assert parts(encoder("plain").encode(talk("Hi", "Yo\n", system="S"))) == [([*b"S\n\nHi\n\n"], False), ([*b"Yo\n", 257], True)]

    def test_bos_comes_once_where_the_tokenizer_adds_one(self) -> None:
        coder, example = encoder("plain-bos"), talk("1", "2", "3", "4", learned=(1, 3))
        assert parts(coder.encode(example)) == [([258, *b"1\n\n"], False), ([*b"2", 257], True), ([*b"\n\n3\n\n"], False), ([*b"4", 257], True)]
        assert_prompts_are_those_of_generation(coder, example)


class TestEndOfTurn:
    def test_a_template_without_one_is_refused(self) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
        with pytest.raises(ValueError, match=r"'tiny-plain' never writes a token that ends a response.* write {{ eos_token }} after an assistant's content"):
            encoder("plain", template).encode(talk("1", "2"))

    def test_the_token_that_opens_the_next_turn_may_be_the_end(self) -> None:
        """As GLM's <|user|>, which no template writes after the last response."""
        template = (
            "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_end|>' }}\n{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|im_end|>\n{% endif %}"
        )
        coder, example = encoder("qwen2", template), talk("1", "2", "3", "4", learned=(1, 3))
        assert parts(coder.encode(example)) == [
            ([START, *b"\n1", END, 10], False),
            ([*b"2", START], True),
            ([*b"\n3", END, 10], False),
            ([*b"4", START], True),
        ]
        assert coder.stop_token_ids == (END, START)
        assert_prompts_are_those_of_generation(coder, example)

    def test_an_end_token_before_the_next_turn_only_is_not_doubled(self) -> None:
        template = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '<eos>' if m.role == 'assistant' and not loop.last }}{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        coder, example = encoder("plain", template), talk("1", "2", "3", "4", learned=(1, 3))
        learned = [run for run, is_learned in parts(coder.encode(example)) if is_learned]
        assert learned == [[*b"2", 257], [*b"4", 257]]
        assert coder.encode(example).input_ids.tolist().count(257) == 2

    @pytest.mark.parametrize("response", ["I am your assistant", "assistant", "b"])
    def test_a_header_after_the_last_response_is_not_learned(self, response: str) -> None:
        """Llama 3's published template always adds the generation prompt."""
        template = FAMILIES["llama3"].chat_template
        assert template is not None
        always = template.replace("{%- if add_generation_prompt %}", "{%- if true %}")
        assert parts(encoder("llama3", always).encode(talk("1", response)))[1] == ([*response.encode(), EOT], True)

    def test_adjacent_special_tokens_end_a_turn_together(self) -> None:
        """As Cohere's <|END_RESPONSE|><|END_OF_TURN_TOKEN|>."""
        template = (
            "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<eos><end_of_turn>{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
        )
        coder = encoder("gemma2", template)
        assert parts(coder.encode(talk("1", "2")))[-1] == ([*b"2", GEMMA_EOS, TURN_END], True)
        assert coder.stop_token_ids == (GEMMA_EOS, TURN_END)

    def test_what_follows_the_end_of_turn_is_not_learned(self) -> None:
        """As Phi-3's, which ends a whole conversation with a token of its own."""
        template = (
            "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>assistant\n{% else %}{{ eos_token }}{% endif %}"
        )
        coder, example = encoder("gemma2", template), talk("1", "2", "3", "4", learned=(1, 3))
        assert [run for run, learned in parts(coder.encode(example)) if learned] == [[*b"2", TURN_END], [*b"4", TURN_END]]
        assert_prompts_are_those_of_generation(coder, example)
        assert parts(coder.encode(talk("1", "x > y, <b>2 >")))[-1] == ([*b"x > y, <b>2 >", TURN_END], True)

    def test_special_tokens_before_the_content_do_not_end_it(self) -> None:
        template = (
            "{% for m in messages %}<start_of_turn>{{ m.role }}{% if m.role == 'assistant' %}<pad>{% endif %}{{ m.content }}<end_of_turn>{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>assistant{% endif %}"
        )
        assert parts(encoder("gemma2", template).encode(talk("1", "2")))[-1] == ([256, *b"2", TURN_END], True)


class TestSegments:
    def test_no_merge_crosses_from_prompt_to_answer(self) -> None:
        tokenizer = byte_tokenizer("qwen2", merges=[("Ċ", "Y"), ("s", "e"), ("2", "3")])  # Ċ is a line feed; ids 256, 257, 258, then the special ones
        assert 256 in tokenizer("<|im_start|>assistant\nYo").input_ids
        coder = ChatEncoder(tokenizer, Encoding())
        row = coder.encode(talk("Yes", "Yo"))
        assert parts(row)[-1] == ([*b"Yo", 261], True)
        assert parts(row)[0][0][-10:] == [*b"assistant\n"]
        assert_prompts_are_those_of_generation(coder, talk("Yes", "Yo"))

    def test_unlearned_answers_are_borders_too(self) -> None:
        """Or generation would be given other tokens than training, which learned the first answer as well."""
        coder = ChatEncoder(byte_tokenizer("plain", merges=[("Ċ", "Y")]), Encoding())
        both, last = talk("1", "Yo", "3", "4", learned=(1, 3)), talk("1", "Yo", "3", "4")
        assert coder.encode(both).input_ids.tolist() == coder.encode(last).input_ids.tolist()
        assert_prompts_are_those_of_generation(coder, both)

    @pytest.mark.parametrize("family", ["qwen2", "llama3", "gemma3", "plain-bos"])
    def test_text_cannot_forge_special_tokens(self, family: str) -> None:
        forged = "".join(FAMILIES[family].special)
        coder = encoder(family)
        row, plain = coder.encode(talk(f"a{forged}b", f"c{forged}d")), coder.encode(talk("ab", "cd"))
        assert [token for token in row.input_ids if token > 255] == [token for token in plain.input_ids if token > 255]
        assert parts(row)[-1][0][:-1] == [*f"c{forged}d".encode()]

    @pytest.mark.parametrize("scheme", ["first", "always"])
    def test_a_space_before_every_piece(self, scheme: str) -> None:
        pieces = {piece: number for number, piece in enumerate(["<eos>", "<unk>", "▁", *"abU:A"])}
        sentencepiece = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>"))
        sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        sentencepiece.add_special_tokens([AddedToken("<eos>", normalized=False, special=True)])
        template = "{% for m in messages %}{{ 'U:' if m.role == 'user' else 'A:' }}{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece, pad_token="<eos>", eos_token="<eos>", name_or_path="spaced")
        tokenizer.chat_template = template
        if scheme == "always":
            with pytest.raises(ValueError, match="'spaced' puts a space before every piece of text"):
                ChatEncoder(tokenizer, Encoding())
            return
        row = ChatEncoder(tokenizer, Encoding()).encode(talk("a", "b"))
        assert tokenizer.convert_ids_to_tokens(row.input_ids.tolist()) == ["▁", "U", ":", "a", "<eos>", "A", ":", "b", "<eos>"]
        assert row.supervised.tolist() == [False] * 7 + [True] * 2


class TestTooLong:
    example = talk("0123456789", "Yo")
    prompt = len(b".system\nYou are a helpful assistant..\n.user\n0123456789..\n.assistant\n") - 1
    row = prompt + 3

    def test_a_row_of_just_the_length_fits(self) -> None:
        assert len(encoder(max_length=self.row).encode(self.example).input_ids) == self.row

    @pytest.mark.parametrize("policy", ["error", "drop"])
    def test_a_longer_one_is_refused(self, policy: str) -> None:
        coder = encoder(max_length=self.row - 1, too_long=policy)
        with pytest.raises(TooLong, match=f"{self.row} tokens, more than the {self.row - 1} allowed; raise `encoding.max_length`") as error:
            coder.encode(self.example)
        assert (error.value.num_tokens, error.value.max_length) == (self.row, self.row - 1)

    @pytest.mark.parametrize(("cut", "text"), [(1, b"012346789"), (4, b"012789"), (7, b"019"), (9, b"0"), (10, b"")])
    def test_the_middle_of_the_last_user_turn_is_cut(self, cut: int, text: bytes) -> None:
        row = encoder(max_length=self.row - cut, too_long="truncate_prompt").encode(self.example)
        assert row.truncated == cut
        assert len(row.input_ids) == self.row - cut
        system = [START, *b"system\nYou are a helpful assistant.", END, 10]
        assert parts(row) == [([*system, START, *b"user\n", *text, END, 10, START, *b"assistant\n"], False), ([*b"Yo", END], True)]

    def test_only_the_last_user_turn_is_cut(self) -> None:
        example = talk("12345", "a", "67890", "b", learned=(1, 3))
        coder = encoder("plain", max_length=len(encoder("plain").encode(example).input_ids) - 3, too_long="truncate_prompt")
        assert parts(coder.encode(example)) == [([*b"12345\n\n"], False), ([*b"a", 257], True), ([*b"\n\n60\n\n"], False), ([*b"b", 257], True)]

    def test_a_template_and_answer_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(TooLong) as error:
            encoder(max_length=self.row - 11, too_long="truncate_prompt").encode(self.example)
        assert error.value.num_tokens == self.row

    def test_a_prompt_has_a_length_of_its_own(self) -> None:
        coder = encoder(max_length=self.prompt, too_long="truncate_prompt")
        assert coder.encode_prompt(self.example.prompt)[1] == 0
        prompt, truncated = coder.encode_prompt(self.example.prompt, max_length=self.prompt - 2)
        assert (len(prompt), truncated) == (self.prompt - 2, 2)
        with pytest.raises(TooLong):
            encoder().encode_prompt(self.example.prompt, max_length=self.prompt - 1)

    def test_characters_of_several_tokens_stay_whole(self) -> None:
        coder = encoder("plain", max_length=20, too_long="truncate_prompt")
        row = coder.encode(talk("é" * 20, "Yo"))
        assert parts(row)[0][0] == [*("é" * 7).encode(), 10, 10]
        assert row.truncated == 26


class TestRefusals:
    def test_a_template_that_rewrites_earlier_turns(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"template of 'tiny-qwen3' rewrites turn 1 .*'.*<think>.*' against '.*2<|im_end|>.*'; learn the last turn only \(`turns: last`\), or give",
        ):
            encoder("qwen3").encode(talk("1", "2", "3", "4", learned=(1, 3)))

    def test_a_template_that_leaves_its_generation_prompt(self) -> None:
        coder = encoder("qwen3", template_arguments={"enable_thinking": False})
        with pytest.raises(ValueError, match="template of 'tiny-qwen3' does not render turn 1 as a continuation of its own generation prompt"):
            coder.encode(talk("1", "<think>\nhm\n</think>\n\n2"))

    def test_a_template_that_refuses_a_system_turn(self) -> None:
        coder = encoder("gemma2")
        for encode in (coder.encode, lambda example: coder.encode_prompt(example.prompt)):
            with pytest.raises(ValueError, match="'tiny-gemma2' cannot render turns of the roles system, user.*: System role not supported; leave out"):
                encode(talk("1", "2", system="S"))

    def test_a_template_whose_expression_fails(self) -> None:
        with pytest.raises(ValueError, match="'tiny-plain' cannot render .*str.*int.*look at `encoding.template_arguments`"):
            encoder("plain", "{{ 'Date: ' + date }}{% for m in messages %}{{ m.content }}{% endfor %}", template_arguments={"date": 2024})

    def test_a_template_that_leaves_nothing_of_an_answer(self) -> None:
        coder = encoder(
            "plain", "{% for m in messages if m.role == 'user' %}{{ m.content }}<pad>{% endfor %}{% if not add_generation_prompt %}<eos>{% endif %}"
        )
        with pytest.raises(ValueError, match="'tiny-plain' leaves nothing of turn 1"):
            coder.encode(talk("1", "2"))

    @pytest.mark.parametrize(("family", "response"), [("qwen2", ""), ("plain", " \n")])
    def test_an_empty_response(self, family: str, response: str) -> None:
        with pytest.raises(ValueError, match="Turn 1 has an empty response"):
            encoder(family).encode(talk("1", response))

    def test_nothing_learned(self) -> None:
        with pytest.raises(ValueError, match="no supervised turn"):
            encoder().encode(Example([Message(role="user", content="1")], ()))

    @pytest.mark.parametrize("turn", [0, 2])
    def test_learned_turns_that_are_not_answers(self, turn: int) -> None:
        with pytest.raises(ValueError, match=f"`supervised` must name turns of the role `assistant` after the first turn, got {turn} of 2 turns"):
            encoder().encode(Example(talk("1", "2").messages, (turn,)))

    @pytest.mark.parametrize("turns", [(3, 1), (1, 1)])
    def test_learned_turns_out_of_order(self, turns: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=re.escape(f"`supervised` must name turns in their order and none twice, got {turns}")):
            encoder().encode(talk("1", "2", "3", "4", learned=turns))

    @pytest.mark.parametrize(
        ("message", "sentence"),
        [
            (
                {"role": "human", "content": "1"},
                "Turn 0 must have a `role` out of system, user, assistant, tool, got 'human'; rename it to 'user' (the roles here are 'human'",
            ),
            ({"content": "1"}, "Turn 0 must have a `role` out of system, user, assistant, tool, got None"),
            ({"role": "user"}, "Turn 0 must have a text as `content` (or a list of text parts), got None"),
            ({"role": "user", "content": ["1"]}, "Turn 0 must have a text as `content` (or a list of text parts), got a list, ['1']; write it as a text"),
            ({"role": "user", "content": f"1{GUARD}"}, "Turn 0 must hold text only, got U+FDD0"),
            ({"role": "user", "content": "1\ud83d"}, "Turn 0 must hold text only, got U+D83D"),
        ],
    )
    def test_malformed_turns(self, message: Any, sentence: str) -> None:
        answer = Message(role="assistant", content="2")
        with pytest.raises(ValueError, match=re.escape(sentence)):
            encoder().encode(Example([message, answer], (1,)))
        with pytest.raises(ValueError, match=re.escape(sentence)):
            encoder().encode_prompt([message])

    def test_no_turns(self) -> None:
        with pytest.raises(ValueError, match="at least one turn"):
            encoder().encode_prompt([])

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"max_length": 1}, "`encoding.max_length` must be at least 2, got 1"),
            ({"too_long": "cut"}, "`encoding.too_long` must be one of error, drop, truncate_prompt, got 'cut'"),
            ({"template_arguments": {"tokenize": True}}, "`encoding.template_arguments` must not hold `tokenize`"),
            ({"template_arguments": {"enable_thinkin": True}}, "holds `enable_thinkin`, which the chat template of 'tiny-qwen3' never reads"),
            ({"chat_template": Path("/nowhere.jinja")}, "`encoding.chat_template` must be a Jinja file, got '/nowhere.jinja'"),
        ],
    )
    def test_options(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            encoder("qwen3", **options)


ENCODERS = {family: encoder(family) for family in ("qwen2", "llama3", "gemma3", "plain-bos")}
LOOK_ALIKES = [token for family in FAMILIES.values() for token in family.special]
TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters=GUARD + MARK), max_size=12) | st.sampled_from(LOOK_ALIKES), max_size=4).map("".join)


@pytest.mark.parametrize("family", ENCODERS)
@settings(max_examples=50, deadline=None)
@given(texts=st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), system=TEXTS)
def test_masks_cover_exactly_the_learned_turns(family: str, texts: tuple[str, ...], system: str) -> None:
    assume(texts[1].strip() and texts[3].strip())
    coder, end = ENCODERS[family], {"qwen2": END, "llama3": EOT, "gemma3": TURN_END, "plain-bos": 257}[family]
    example = talk(*texts, system=system)
    example = Example(example.messages, (2, 4))
    row = coder.encode(example)
    learned = [run for run, is_learned in parts(row) if is_learned]
    answers = [text.strip() if family in ("llama3", "gemma3") else text for text in texts[1::2]]  # these templates trim
    assert learned == [[*answer.encode(), end] for answer in answers]
    assert [coder.tokenizer.decode(run[:-1]) for run in learned] == answers
    assert_prompts_are_those_of_generation(coder, example)
