import re
from pathlib import Path
from typing import Any

import pytest

from lit_talr.data.chat_template import ChatTemplate
from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message
from tests.helpers.tiny import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = [Message(role="user", content="1"), Message(role="assistant", content="2")]


def template(source: str | None = None, arguments: dict[str, Any] | None = None) -> ChatTemplate:
    return ChatTemplate(byte_tokenizer("qwen2", source), Encoding(template_arguments=arguments or {}))


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_bytes(b"\xef\xbb\xbf" + CHATML.encode())
    tokenizer = byte_tokenizer("qwen2")
    assert ChatTemplate(tokenizer, Encoding(chat_template=file)).render(TALK, prompt=False).startswith("<|im_start|>user\n1")
    assert tokenizer.chat_template == CHATML


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", " must hold a Jinja template, got an empty file"),
        ("é".encode("latin-1"), " must be UTF-8, got unexpected end of data at byte 0; save the file"),
        (b"{% for m in messages %}\n{{ m.content }\n{% endfor %}", ": line 2 is not valid Jinja (unexpected '}'); correct it, or give another."),
        (b"{{ messages | shout }}", ": line 1 is not valid Jinja (No filter named 'shout'.); correct it"),
    ],
)
def test_a_template_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "mine.jinja"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"`encoding.chat_template`: {file}{sentence}")):
        ChatTemplate(byte_tokenizer("qwen2"), Encoding(chat_template=file))


def test_a_template_of_the_tokenizer_that_is_no_jinja_is_named() -> None:
    with pytest.raises(ValueError, match="the chat template of 'tiny-qwen2': line 2 is not valid Jinja"):
        template("{% if add_generation_prompt %}\n{% endfor %}")


def test_named_templates_need_a_default() -> None:
    tokenizer = byte_tokenizer("qwen2")
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(ValueError, match="'tiny-qwen2' must have one chat template, or one called `default`, got rag, tool_use; write the one to use"):
        ChatTemplate(tokenizer, Encoding())
    tokenizer.chat_template = {"default": CHATML, "rag": "{{ documents }}"}
    assert ChatTemplate(tokenizer, Encoding()).render(TALK, prompt=True).endswith("2<|im_end|><|im_start|>assistant\n")


def test_texts_are_wrapped_for_a_template_that_reads_parts_only() -> None:
    source = CHATML.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")
    assert template(source).render(TALK, prompt=False) == template(CHATML).render(TALK, prompt=False)


def test_a_list_of_parts_is_refused_where_it_would_become_a_list_of_python() -> None:
    message = Message(role="user", content=[{"type": "text", "text": "1"}])
    with pytest.raises(ValueError, match="Turn 0 has a list of text parts as `content`, which the chat template of 'tiny-qwen2' does not read; join them"):
        template(CHATML.replace("m.content", "m.content | string")).render([message], prompt=True)


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (
            Example([TALK[0], {**TALK[1], "reasoning_content": "hm"}], (1,)),
            "Turn 1 has `reasoning_content`, which the chat template of 'tiny-qwen2' never reads",
        ),
        (Example([TALK[0], {**TALK[1], "tool_calls": [{"name": "f"}]}], (1,)), "Turn 1 has `tool_calls`, which the chat template of 'tiny-qwen2' never reads"),
        (Example([{**TALK[0], "name": "Ann"}, TALK[1]], (1,)), "Turn 0 has `name`, which the chat template of 'tiny-qwen2' never reads"),
        (Example(TALK, (1,), tools=[{"name": "f"}]), "The row has `tools`, which the chat template of 'tiny-qwen2' never reads; leave them out"),
        (Example(TALK, (1,), template_arguments={"think": True}), "`chat_template_kwargs` holds `think`, which the chat template of 'tiny-qwen2' never reads"),
        (Example(TALK, (1,), template_arguments={"tokenize": True}), "`chat_template_kwargs` must not hold `tokenize`"),
    ],
)
def test_what_the_template_never_reads_is_refused(example: Example, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ChatEncoder(byte_tokenizer("qwen2"), Encoding()).encode(example)


def test_the_arguments_of_a_row_go_over_those_of_the_run() -> None:
    source = CHATML + "{{ day }}{{ tools[0].name if tools }}"
    run = template(source, {"day": "Monday"})
    row = run.given(Example(TALK, (1,), tools=[{"name": "f"}], template_arguments={"day": "Friday"}))
    assert row.render(TALK, prompt=False).endswith("Fridayf")
    assert run.render(TALK, prompt=False).endswith("Monday")


def test_a_refusal_names_the_argument_that_helps() -> None:
    source = CHATML.replace("{% endif %}", "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endif %}")
    encoder = ChatEncoder(byte_tokenizer("qwen3", source), Encoding())
    with pytest.raises(ValueError, match="own generation prompt.* against .*; set `encoding.template_arguments` to {enable_thinking: false}, or give another"):
        encoder.encode(Example(TALK, (1,)))
    helped = ChatEncoder(byte_tokenizer("qwen3", source), Encoding(template_arguments={"enable_thinking": False}))
    assert helped.encode(Example(TALK, (1,))).supervised.sum() == 2


def test_a_refusal_names_no_argument_where_none_helps() -> None:
    source = CHATML.replace("{% endif %}", "<think>{% endif %}{{ '' if unrelated }}")
    with pytest.raises(ValueError, match=r"'.*<think>' against '.*2<\|im_end\|>'; give another `encoding.chat_template`\.$"):
        ChatEncoder(byte_tokenizer("qwen3", source), Encoding()).encode(Example(TALK, (1,)))
