import re
from typing import Any

import pytest

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message
from tests.helpers.tiny import byte_tokenizer

START, END, THINK, END_OF_THINK = 257, 258, 259, 260  # <|im_start|>, <|im_end|>, <think>, </think>
HEADER = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
FOOTER = "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
READER = (
    HEADER + "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls %}[{{ call.function.name }} {{ call.function.arguments | tojson }}]{% endfor %}" + FOOTER + "{{ tools | tojson if tools }}"
)
CUTTER = HEADER + "{{ m.content.split('</think>')[-1] }}" + FOOTER
CALL = {"type": "function", "function": {"name": "f", "arguments": {"place": 'Oslo "S"<|im_end|>'}}}


def learned(source: str, answer: dict[str, Any], tools: Any = ()) -> list[int]:
    coder = ChatEncoder(byte_tokenizer("qwen3", source), Encoding())
    row = coder.encode(Example([Message(role="user", content="1"), {"role": "assistant", **answer}], (1,), tools=tools))  # type: ignore[typeddict-item]
    return row.input_ids[row.supervised].tolist()


def test_thoughts_of_a_turn_are_learned() -> None:
    assert learned(READER, {"content": "2", "reasoning_content": "hm"}) == [THINK, *b"hm", END_OF_THINK, *b"2", END]


def test_tool_calls_are_learned_and_special_tokens_in_them_are_text() -> None:
    text = b'[f {"place": "Oslo \\"S\\"<|im_end|>"}]'
    assert learned(READER, {"content": None, "tool_calls": [CALL]}) == [*text, END]
    assert learned(READER, {"content": "2", "reasoning_content": "a<|im_end|>b"}) == [THINK, *b"a<|im_end|>b", END_OF_THINK, *b"2", END]


def test_special_tokens_in_tools_are_text() -> None:
    coder = ChatEncoder(byte_tokenizer("qwen3", "{{ tools | tojson if tools }}" + HEADER + "{{ m.content }}" + FOOTER), Encoding())
    ids, _ = coder.encode_prompt([Message(role="user", content="1")], tools=[{"name": "<|im_end|>"}])
    assert ids == [*b'[{"name": "<|im_end|>"}]', START, *b"user\n1", END, START, *b"assistant\n"]


def test_tokens_that_are_not_special_stay_tokens_in_every_text() -> None:
    coder = ChatEncoder(byte_tokenizer("qwen3", HEADER + "{{ m.content }}" + FOOTER), Encoding())
    row = coder.encode(Example([Message(role="user", content="a<think>"), Message(role="assistant", content="<think>b</think>")], (1,)))
    assert row.input_ids.tolist() == [START, *b"user\na", THINK, END, START, *b"assistant\n", THINK, *b"b", END_OF_THINK, END]


@pytest.mark.parametrize(
    ("source", "answer", "sentence"),
    [
        (CUTTER, {"content": "<think>hm</think>Yo"}, "renders only a part of the `content` of turn 1: '<think>hm</think>Yo' is not in 'Yo<|im_end|>'"),
        (
            READER.replace("{{ m.reasoning_content }}", "..."),
            {"content": "2", "reasoning_content": "hm"},
            "only a part of the `reasoning_content` of turn 1: 'hm'",
        ),
        (
            READER.replace(" {{ call.function.arguments | tojson }}", ""),
            {"content": "2", "tool_calls": [CALL]},
            "only a part of the `tool_calls` of turn 1: 'place'",
        ),
    ],
)
def test_a_text_that_the_template_cuts_is_refused(source: str, answer: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        learned(source, answer)


def test_thoughts_that_the_generation_prompt_opens_are_whole() -> None:
    source = (HEADER + "{{ m.content }}" + FOOTER).replace("assistant\n{% endif", "assistant\n<think>{% endif")
    assert learned(source, {"content": "<think>hm</think>2"}) == [*b"hm", END_OF_THINK, *b"2", END]


def test_a_system_turn_that_the_template_leaves_out_is_refused() -> None:
    coder = ChatEncoder(byte_tokenizer("qwen3", HEADER.replace("messages", "messages if m.role != 'system'") + "{{ m.content }}" + FOOTER), Encoding())
    turns = [Message(role="system", content="S"), Message(role="user", content="1"), Message(role="assistant", content="2")]
    for encode in (lambda: coder.encode(Example(turns, (2,))), lambda: coder.encode_prompt(turns[:2])):
        with pytest.raises(ValueError, match="leaves out turn 0 of the role `system`; put its text into another turn"):
            encode()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("thoughts", "hm", "Turn 1 has the key `thoughts`, which no chat template is given; rename it to one of role, content"),
        ("reasoning_content", 3, "Turn 1 must have a text as `reasoning_content`, got a number, 3"),
        ("tool_calls", "f(1)", "Turn 1 must have a list of objects as `tool_calls`, got 'f(1)'"),
        ("reasoning_content", "\ufdd1", "Turn 1 must hold text only, got U+FDD1"),
    ],
)
def test_malformed_keys(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        learned(READER, {"content": "2", key: value})
