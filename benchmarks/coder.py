"""Sizes of texts coded with a model, next to gzip and xz: python -m benchmarks.coder --data FOLDER [--model lit_talr/lab/base]

``--data`` is the folder whose ``general_text`` holds books; without it there is no row for English. Seconds are processor time, which other work on the
machine hardly changes. Every coded text is decoded and compared.
"""

import argparse
import gzip
import lzma
import time
from itertools import accumulate, takewhile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.lab.skills import Skills
from lit_talr.theory import bits_per_byte, code_length, compress, decompress
from lit_talr.theory.walk import start_token
from lit_talr.utils.files import shipped

BOOK = "pg1342_pride_and_prejudice.txt.gz"


def skills(tokenizer: PreTrainedTokenizerBase, num_bytes: int) -> str:
    """Test rows of ``Skills`` in the chat template, one after the other."""
    rows = Skills("", test_size=num_bytes // 32).examples("test")
    return first_bytes("".join(str(tokenizer.apply_chat_template(row.messages, tokenize=False)) for row in rows), num_bytes)


def english(data: Path, num_bytes: int) -> str:
    """Text from the middle of a novel."""
    text = gzip.decompress((data / "general_text" / BOOK).read_bytes()).decode()
    return first_bytes(text[len(text) // 2 :], num_bytes)


def first_bytes(text: str, num_bytes: int) -> str:
    """Cut a text to as many whole characters as fit."""
    sizes = accumulate(len(character.encode()) for character in text)
    return text[: sum(1 for _ in takewhile(lambda size: size <= num_bytes, sizes))]


def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_rows: int = 256) -> tuple[float, float]:
    """Bits per byte of the questions of some rows, and of their answers after the questions."""
    bits = torch.zeros(2)
    num_bytes = torch.zeros(2)
    for row in Skills("", test_size=num_rows).examples("test"):
        question = str(tokenizer.apply_chat_template(row.messages[:-1], tokenize=False, add_generation_prompt=True))
        texts = [question, str(tokenizer.apply_chat_template(row.messages, tokenize=False))]
        lengths = code_length(model, [[start_token(tokenizer), *tokenizer(text)["input_ids"]] for text in texts]).bits  # type: ignore[misc]
        bits += lengths.diff(prepend=torch.zeros(1))
        num_bytes += torch.tensor([len(text.encode()) for text in texts]).diff(prepend=torch.zeros(1))
    return tuple((bits / num_bytes).tolist())


def row(name: str, text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int) -> str:
    began = time.process_time()
    coded = compress(model, tokenizer, text, context)
    middle = time.process_time()
    assert decompress(model, tokenizer, coded) == text
    ended = time.process_time()
    data = text.encode()
    ideal = bits_per_byte(model, tokenizer, text, context) * len(data) / 8
    sizes = [len(data), len(gzip.compress(data, 9)), len(lzma.compress(data, preset=9)), len(coded), ideal]
    return f"| {name} | {' | '.join(f'{size:,.0f}' for size in sizes)} | {middle - began:.0f} | {ended - middle:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lit_talr/lab/base")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bytes", type=int, default=65536)
    parser.add_argument("--context", type=int, default=256)
    arguments = parser.parse_args()
    folder = shipped(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    texts = {"Skills": skills(tokenizer, arguments.bytes)}
    if arguments.data:
        texts["English"] = english(arguments.data, arguments.bytes)
    print("| text | bytes | gzip -9 | xz -9 | coder | code length | seconds to code | to decode |\n|---|---|---|---|---|---|---|---|")
    for name, text in texts.items():
        print(row(name, text, model, tokenizer, arguments.context), flush=True)
    print("\nSkills: the questions take {:.3f} bits per byte, the answers after them {:.3f}.".format(*answers(model, tokenizer)))


if __name__ == "__main__":
    main()
