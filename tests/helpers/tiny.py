"""Tiny tokenizers, made offline: the id of a byte is its value, special tokens follow from 256, so expected ids can be written by hand."""

from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

QWEN2 = """
{%- if messages[0].role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for turn in messages %}
{{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""ChatML, with a default system turn."""

QWEN3 = """
{%- set seen = namespace(user=-1) %}
{%- for turn in messages %}
{%- if turn.role == 'user' %}
{%- set seen.user = loop.index0 %}
{%- endif %}
{%- endfor %}
{%- for turn in messages %}
{{- '<|im_start|>' + turn.role + '\\n' }}
{%- set parts = turn.content.split('</think>') %}
{%- if turn.role != 'assistant' %}
{{- turn.content }}
{%- elif loop.index0 > seen.user %}
{{- '<think>\\n' + (parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '') + '\\n</think>\\n\\n' + parts[-1].lstrip('\\n') }}
{%- else %}
{{- parts[-1].lstrip('\\n') }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else '') }}
{%- endif %}
"""
"""ChatML whose last response has a block of thoughts; those of earlier responses are removed."""

LLAMA3 = """
{{- bos_token }}
{%- for turn in messages %}
{{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA_TURNS = """
{%- for turn in turns %}
{{- '<start_of_turn>' + ('model' if turn.role == 'assistant' else 'user') + '\\n' }}
{{- (opening if loop.first else '') + turn.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

GEMMA2 = (
    """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
{{- raise_exception('System role not supported') }}
{%- endif %}
{%- set turns, opening = messages, '' %}
"""
    + GEMMA_TURNS
)
"""An assistant is a model, and there is no system turn."""

GEMMA3 = (
    """
{{- bos_token }}
{%- set turns, opening = messages, '' %}
{%- if messages[0].role == 'system' %}
{%- set turns, opening = messages[1:], messages[0].content + '\\n\\n' %}
{%- endif %}
"""
    + GEMMA_TURNS
)
"""Gemma 2 with the system text at the beginning of the first user turn."""


class Family(NamedTuple):
    """The properties of a family that a byte-level tokenizer imitates."""

    chat_template: str | None
    special: tuple[str, ...]  # ids from 256 in this order
    pad: str
    eos: str
    bos: str | None = None  # put before every text by the tokenizer
    added: tuple[str, ...] = ()  # tokens that are not special, after the special ones


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_SPECIAL = ("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
FAMILIES = {
    "qwen2": Family(QWEN2, CHATML, pad="<|endoftext|>", eos="<|im_end|>"),
    "qwen3": Family(QWEN3, CHATML, pad="<|endoftext|>", eos="<|im_end|>", added=("<think>", "</think>")),
    "llama3": Family(LLAMA3, LLAMA3_SPECIAL, pad="<|finetune_right_pad_id|>", eos="<|eot_id|>", bos="<|begin_of_text|>"),
    "gemma2": Family(GEMMA2, GEMMA_SPECIAL, pad="<pad>", eos="<eos>", bos="<bos>"),
    "gemma3": Family(GEMMA3, GEMMA_SPECIAL, pad="<pad>", eos="<eos>", bos="<bos>"),
    "plain": Family(None, ("<pad>", "<eos>"), pad="<pad>", eos="<eos>"),
    "plain-bos": Family(None, ("<pad>", "<eos>", "<bos>"), pad="<pad>", eos="<eos>", bos="<bos>"),
}


def byte_alphabet() -> list[str]:
    """The character that byte-level tokenizers write for each byte: printable bytes stand for themselves, the others follow from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def byte_tokenizer(family: str = "plain", chat_template: str | None = None, merges: list[tuple[str, str]] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of a family, optionally with another chat template or with merges, whose ids follow the bytes."""
    chosen = FAMILIES[family]
    vocabulary = {character: byte for byte, character in enumerate(byte_alphabet())}
    for first, second in merges or []:
        vocabulary.setdefault(first + second, len(vocabulary))
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges or []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in chosen.special])
    bpe.add_tokens([AddedToken(token, normalized=False) for token in chosen.added])
    if chosen.bos:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{chosen.bos} $A", pair=f"{chosen.bos} $A {chosen.bos} $B", special_tokens=[(chosen.bos, bpe.token_to_id(chosen.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=chosen.pad, eos_token=chosen.eos, bos_token=chosen.bos, name_or_path=f"tiny-{family}")
    tokenizer.chat_template = chat_template or chosen.chat_template
    return tokenizer


def save_tokenizer(folder: Path, family: str = "qwen2") -> Path:
    """Writes a family's tokenizer into a folder for ``model.tokenizer``."""
    byte_tokenizer(family).save_pretrained(folder)
    return Path(folder)
