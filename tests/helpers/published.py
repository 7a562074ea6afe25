"""Published tokenizers and chat templates, read from the folder that ``LIT_TALR_DATA`` names; tests skip themselves without it."""

import lzma
import os
import re
from copy import copy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

DATA = Path(os.environ.get("LIT_TALR_DATA", "/nowhere"))
NEEDS_DATA = pytest.mark.skipif(not (DATA / "chat_templates").is_dir(), reason="LIT_TALR_DATA names no folder with templates and tokenizers")
TEMPLATES = {path.stem: path for path in sorted((DATA / "chat_templates").glob("*.jinja"))}
MARKER = re.compile(
    r"<\|[^|<>\s]+\|>|<｜[^｜]+｜>|<\|\w+>|<\w+\|>|</?s>|<(?:start|end)_of_\w+>|<(?:bos|eos|sop|seed:\w+)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]"
)
"""Special tokens as templates write them."""


@cache
def unpack(name: str) -> TemporaryDirectory:
    folder = TemporaryDirectory()
    source = DATA / "tokenizers" / name
    (Path(folder.name) / "tokenizer.json").write_bytes(lzma.decompress((source / "tokenizer.json.xz").read_bytes()))
    (Path(folder.name) / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    return folder


def published_folder(name: str) -> Path:
    """A folder with the tokenizer's files as published."""
    return Path(unpack(name).name)


@cache
def published_tokenizer(name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(published_folder(name))


@cache
def tokenizer_with_all_markers() -> PreTrainedTokenizerBase:
    """Qwen3's vocabulary with the markers of all templates as special tokens. The end token is one that no template writes by name."""
    tokenizer = AutoTokenizer.from_pretrained(published_folder("qwen3"))
    markers = sorted({marker for path in TEMPLATES.values() for marker in MARKER.findall(path.read_text(encoding="utf-8"))})
    tokenizer.add_special_tokens({"bos_token": "<bos_of_all>", "eos_token": "<eos_of_all>", "additional_special_tokens": markers}, False)
    return tokenizer


def tokenizer_with(template: str) -> PreTrainedTokenizerBase:
    """The tokenizer with all markers and one published template."""
    tokenizer = copy(tokenizer_with_all_markers())
    tokenizer.chat_template, tokenizer.name_or_path = TEMPLATES[template].read_text(encoding="utf-8"), template
    return tokenizer
