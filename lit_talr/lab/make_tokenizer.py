"""Makes the tokenizer of the lab: python -m lit_talr.lab.make_tokenizer --out DIR

A byte-level BPE. Text is split so that a tiny model needs few tokens and few steps of attention. A JSON key with its quotes is one token, and so are a
number (the space before it belongs to the word before), a number with its unit, a negated finding ("no cough"), and a role of the chat template. A trained
model needs the tokenizer that it was trained with: one that is made again after a change of texts has other ids.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_talr.lab.clinic import Clinic
from lit_talr.lab.clinic_notes import UNITS
from lit_talr.lab.skill_items import SKILLS
from lit_talr.lab.skills import PRACTICE, Skills

PAD, END, ROLES = "<|pad|>", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECES = (
    r' ?\{"[a-z_]+": "',  # the opening of an object, with its first key
    r'", "[a-z_]+": "',  # the next key
    r'"\}',
    r"[0-9]+ (?:" + "|".join(dict.fromkeys(UNITS.values())) + r")\b",  # a number with its unit
    r"[0-9]+",
    r" ?no [a-z]+",  # what is absent
    r" ?[A-Za-z_-]+(?: (?=[0-9]))?",  # a word, with the space before a number
    r" ?[^\sA-Za-z0-9](?: (?=[0-9]))?",  # a sign
    r"\s",
)
NUMBERS = range(200)
"""Numbers that are one token each, even if no text contains them."""


def texts() -> Iterator[str]:
    for seed in range(100, 104):
        for target in ("cot", "label"):
            data = Clinic(target=target, train_size=2000, seed=seed)
            yield from (message["content"] for example in data.examples("train") for message in example.messages)
    skills = Skills(skills=dict.fromkeys([*SKILLS, *PRACTICE], 1.0), train_size=40000)
    yield from (message["content"] for example in skills.examples("train") for message in example.messages)
    for number in NUMBERS:
        yield from [str(number)] * 100


def make(vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains the tokenizer; the same texts give the same tokens."""
    bpe = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex("|".join(PIECES)), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, *ROLES], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD, additional_special_tokens=list(ROLES))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lit_talr.lab.make_tokenizer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--vocabulary", type=int, default=2048, help="largest number of tokens")
    arguments = parser.parse_args()
    tokenizer = make(arguments.vocabulary)
    tokenizer.save_pretrained(arguments.out)
    print(f"{arguments.out}: {len(tokenizer):,} tokens")


if __name__ == "__main__":
    main()
