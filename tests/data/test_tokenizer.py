import json
import re
from pathlib import Path

import pytest

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example
from lit_talr.data.tokenizer import load_tokenizer, tokenizer_hash
from tests.helpers.tiny import byte_tokenizer, save_tokenizer


def test_a_saved_tokenizer_encodes_as_before(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, "llama3")
    example = Example.from_prompt("1", "2")
    loaded, made = (ChatEncoder(tokenizer, Encoding()) for tokenizer in (load_tokenizer(str(tmp_path)), byte_tokenizer("llama3")))
    assert loaded.encode(example).input_ids.tolist() == made.encode(example).input_ids.tolist()
    assert (loaded.stop_token_ids, loaded.pad_token_id) == ((260,), 256)  # <|eot_id|>


def save_without(folder: Path, kind: str) -> str:
    file = save_tokenizer(folder, "llama3") / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings[f"{kind}_token"]
    file.write_text(json.dumps(settings))
    return str(folder)


def test_no_end_token(tmp_path: Path) -> None:
    sentence = f'{tmp_path}\' has no end token; set "eos_token" in its tokenizer_config.json (of a local copy) to the token that ends its responses'
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_tokenizer(save_without(tmp_path, "eos"))


def test_the_end_token_pads_where_there_is_no_pad_token(tmp_path: Path) -> None:
    """As in Llama 3, 3.1 and 3.2 as published."""
    tokenizer = load_tokenizer(save_without(tmp_path, "pad"))
    assert (tokenizer.pad_token_id, ChatEncoder(tokenizer, Encoding()).pad_token_id) == (260, 260)  # <|eot_id|>


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a folder or a hub name, got .*nowhere', which is not there"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder without a tokenizer .tokenizer_config.json.; give the one"):
        load_tokenizer(str(tmp_path))


def test_the_hash_is_that_of_the_tokenizer_whatever_it_padded_last() -> None:
    hashes = {family: tokenizer_hash(byte_tokenizer(family)) for family in ("qwen2", "llama3", "plain")}
    assert len(set(hashes.values())) == 3
    padding = byte_tokenizer("qwen2")
    padding(["a", "bc"], padding=True, truncation=True, max_length=4)
    assert tokenizer_hash(padding) == hashes["qwen2"]
