from pathlib import Path

import pytest

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example
from lit_talr.domains.prompts import fill_in, read_prompt
from tests.helpers.tiny import byte_tokenizer


def test_only_the_places_of_the_template_are_filled() -> None:
    template = '{note}|{question}|{other}|{"answer": {note}}'
    values = {"note": "{question} \0001\0", "question": "{note} \\1 \\g<0>"}
    assert fill_in(template, values) == '{question} \0001\0|{note} \\1 \\g<0>|{other}|{"answer": {question} \0001\0}'


def test_reads_a_wording(tmp_path: Path) -> None:
    (tmp_path / "prompt.yaml").write_text("system: Be brief.\nuser: Q {question}")
    assert read_prompt(tmp_path / "prompt.yaml", ["question"]) == {"system": "Be brief.", "user": "Q {question}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: no place", r"prompt.yaml: the text `user` does not contain \{question\}"),
        ("user: 3", "prompt.yaml: must hold the texts `user` and, if wanted, `system`, and nothing else"),
        ("- user", "prompt.yaml: must hold the texts"),
        ("system: x", "prompt.yaml: must hold the texts"),
        ("user: '{question}'\nother: x", "prompt.yaml: must hold the texts"),
        ("user: a\nuser: b", "prompt.yaml: the key `user` stands in line 1 and again in line 2; join the two.$"),
        ("user: [", "prompt.yaml: is not YAML .*line 1, column 8"),
        ("user: '\u00e9'".encode("latin-1"), "prompt.yaml: is not YAML"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "prompt.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_prompt(tmp_path / "prompt.yaml", ["question"])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`prompt_file`: .*prompt.yaml does not exist; give a YAML file"):
        read_prompt(tmp_path / "prompt.yaml", [])


def test_the_yardsticks_prompt_and_response_are_one_text_and_all_learned() -> None:
    prompt = read_prompt(Path("lit_talr/configs/prompts/peft_metamath.yaml"), ["question"])
    example = Example.from_prompt(fill_in(prompt["user"], {"question": "1 + 1?"}), "2")
    encoder = ChatEncoder(byte_tokenizer("llama3"), Encoding(prompt_weight=1, chat_template=Path("lit_talr/configs/prompts/completion.jinja")))
    text, row = b"Question: 1 + 1? Think step by step.\nAnswer:2", encoder.encode(example)
    assert row.input_ids.tolist() == [encoder.tokenizer.bos_token_id, *text, encoder.eos_token_id]
    assert row.supervised.tolist() == [False] + [True] * (len(text) + 1) and row.weights is None
    assert encoder.encode_prompt(example.messages[:-1]) == (row.input_ids.tolist()[:-2], 0)
