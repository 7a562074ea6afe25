"""Published chat templates and tokenizers: every row is right, or refused with the way out."""

import random
import re
import unicodedata
from collections import Counter
from itertools import pairwise, product

import pytest
from transformers import PreTrainedTokenizerBase

from lit_talr.data.encoder import ChatEncoder, Encoded
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message
from tests.helpers.published import MARKER, NEEDS_DATA, TEMPLATES, published_tokenizer, tokenizer_with

pytestmark = NEEDS_DATA
TEXTS = ("Who is there?", "I am your assistant", "Thanks, and why?", "Just because.")
FEW = ("axol__llama3", "axol__phi_3", "chuj__vicuna", "ikll__GLM-4.6", "ikll__openai-gpt-oss-120b", "trl__cohere2", "trl__qwen3", "trl__deepseek_r1_distill")
END = re.compile(rf"\s*(?:{MARKER.pattern}|<eos_of_all>)+")
WAY_OUT = re.compile("give another `encoding.chat_template`|give that as `encoding.chat_template`")


def case(turns: int, system: bool, every: bool) -> Example:
    messages = [Message(role="system", content="Be kind.")] if system else []
    messages += [Message(role=("user", "assistant")[index % 2], content=text) for index, text in enumerate(TEXTS[:turns])]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return Example(messages, tuple(answers if every else answers[-1:]))


CASES = [case(2, False, True), case(2, True, True), *(case(4, system, every) for system, every in product((False, True), repeat=2))]


def learned_runs(row: Encoded) -> list[tuple[int, int]]:
    edges = [0, *(at for at in range(1, len(row.supervised)) if row.supervised[at] != row.supervised[at - 1]), len(row.supervised)]
    return [(start, stop) for start, stop in pairwise(edges) if row.supervised[start]]


def assert_row_is_the_templates_own(coder: ChatEncoder, tokenizer: PreTrainedTokenizerBase, example: Example) -> None:
    """Compares with transformers' own renders; of the encoder only its result is used."""
    row = coder.encode(example)
    turns = list(example.messages)
    if tokenizer.name_or_path.startswith(("trl__idefics3", "trl__llava_next", "trl__smolvlm")):  # these read lists of parts only
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]  # type: ignore[misc]
    after = [*turns, {**turns[-2], "role": "user"}]
    whole, followed = (tokenizer.apply_chat_template(messages, tokenize=False) for messages in (turns, after))
    text = tokenizer.decode(row.input_ids)
    assert str(whole).startswith(text) or str(followed).startswith(text)
    runs = learned_runs(row)
    assert len(runs) == len(example.supervised)
    for turn, (start, stop) in zip(example.supervised, runs, strict=True):
        learned, content = tokenizer.decode(row.input_ids[start:stop]), example.messages[turn]["content"]
        lead, found, end = learned.partition(content)
        assert found and END.fullmatch(end) and "user" not in MARKER.sub("", lead).replace("to=user", "")
        assert not any(other in learned for other in TEXTS if other != content)
        prompt = tokenizer.apply_chat_template(turns[:turn], tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(row.input_ids[:start]) == prompt
        assert coder.encode_prompt(example.messages[:turn]) == (row.input_ids[:start].tolist(), 0)
        assert row.input_ids[stop - 1] in coder.stop_token_ids


def outcomes(template: str) -> Counter[str]:
    """Counts the rows of a template that are right, and those that are refused, by the reason."""
    tokenizer, counts = tokenizer_with(template), Counter[str]()
    try:
        coder = ChatEncoder(tokenizer, Encoding())
    except ValueError as error:
        assert WAY_OUT.search(str(error))
        return Counter({"cannot render": len(CASES)})
    for example in CASES:
        try:
            assert_row_is_the_templates_own(coder, tokenizer, example)
            counts["right"] += 1
        except ValueError as error:
            assert WAY_OUT.search(str(error))
            reason = str(error).partition(f"{template!r} ")[2]
            counts[" ".join(reason.split()[:2])] += 1
    return counts


@pytest.mark.parametrize("template", FEW)
def test_rows_of_a_few_templates_are_right_or_refused(template: str) -> None:
    right = {"trl__deepseek_r1_distill": 0, "ikll__openai-gpt-oss-120b": 4, "trl__qwen3": 4, "chuj__vicuna": 0}
    assert outcomes(template)["right"] == right.get(template, 6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rows_of_all_templates_are_right_or_refused() -> None:
    table = {template: outcomes(template) for template in TEMPLATES}
    total = sum(table.values(), Counter[str]())
    assert sum(total.values()) == 6 * len(TEMPLATES)
    assert total["right"] == 494


# Masks of TRL's training templates


def generation_masks(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[str]:
    """The texts that a template marks by its tag ``generation``."""
    turns = list(example.messages)
    if tokenizer.name_or_path.startswith(("trl__idefics3", "trl__llava_next", "trl__smolvlm")):
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]  # type: ignore[misc]
    output = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    runs: list[list[int]] = []
    for at, (token, mask) in enumerate(zip(output["input_ids"], output["assistant_masks"], strict=True)):
        if mask and (not at or not output["assistant_masks"][at - 1]):
            runs.append([])
        if mask:
            runs[-1].append(token)
    return [str(tokenizer.decode(run)) for run in runs]


ALSO_MARKED = {
    "trl__muse_glimmer_training": ("<|start|>assistant", ""),  # part of the generation prompt
    "trl__qwen3_5_think_training": ("<think>", ""),  # likewise
    "trl__qwen3_8_training": ("<think>", ""),
    "trl__phi3_training": ("", "<eos_of_all>"),  # ends the whole conversation, after the end of turn
}
"""Texts that a training template marks before and after the one that is learned here."""
TRAINING = [name for name in TEMPLATES if name.endswith("_training")]


def assert_masks_agree(template: str) -> int:
    """Compares but for white space: these templates mark the line break after an end of turn too."""
    tokenizer, agreed = tokenizer_with(template), 0
    coder = ChatEncoder(tokenizer, Encoding())
    for example in CASES:
        every = Example(example.messages, tuple(at for at, turn in enumerate(example.messages) if turn["role"] == "assistant"))
        try:
            row = coder.encode(every)
        except ValueError:
            continue
        ours = [str(tokenizer.decode(row.input_ids[start:stop])) for start, stop in learned_runs(row)]
        before, after = ALSO_MARKED.get(template, ("", ""))
        marks = [text.strip().removeprefix(before).removesuffix(after).strip() for text in generation_masks(tokenizer, every)]
        assert [text.strip() for text in ours] == marks
        agreed += 1
    return agreed


def test_masks_are_those_of_the_training_template_of_qwen() -> None:
    assert assert_masks_agree("trl__qwen2_5_training") == 6


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("template", TRAINING)
def test_masks_are_those_of_training_templates(template: str) -> None:
    assert_masks_agree(template)


# Conversations of every kind with published tokenizers

SPECIAL = {
    "qwen3": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "qwen2_5": ("<|im_start|>", "<|im_end|>", "<|vision_start|>"),
    "llama3_1": ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>"),
    "gemma3": ("<end_of_turn>", "<bos>", "<start_of_turn>"),
}
ENDS = {"qwen3": "<|im_end|>", "qwen2_5": "<|im_end|>", "llama3_1": "<|eot_id|>", "gemma3": "<end_of_turn>"}
WORDS = [
    "assistant",
    "user",
    "42",
    "e\u0301t\u00e9",
    "\u4f60\u597d",
    "\U0001f600",
    "naïve",
    "\n",
    "  ",
    "\t",
    "{{ x }}",
    "<tool_call>",
    "don't",
    "x = 3.5",
    "\u2028",
]


def text_of(draw: random.Random, name: str) -> str:
    length = draw.choice([1, 3, 8, 8, 300])
    words = [draw.choice([*WORDS, *SPECIAL[name]]) for _ in range(length)]
    blanks = draw.choice(["", "", " ", "\n\n"])
    return unicodedata.normalize("NFC", blanks + draw.choice(["", " "]).join(["a", *words, "z"]) + blanks)


def conversation(seed: int, name: str) -> Example:
    draw = random.Random(f"{name} {seed}")
    rounds = draw.randint(1, 4)
    messages = [Message(role="system", content=text_of(draw, name))] if draw.random() < 0.4 else []
    messages += [Message(role=role, content=text_of(draw, name)) for _ in range(rounds) for role in ("user", "assistant")]
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    every = draw.random() < 0.5 and name != "qwen3"  # whose template removes the thoughts of earlier turns
    return Example(messages, tuple(answers if every else answers[-1:]))


def response(name: str, content: str) -> str:
    """The learned text of a response, by the published template's own rule."""
    if name == "qwen3":
        return "<think>\n\n</think>\n\n" + content.lstrip("\n")
    return content if name == "qwen2_5" else content.strip()


def assert_conversation_is_encoded(coder: ChatEncoder, name: str, example: Example) -> None:
    tokenizer = published_tokenizer(name)
    row, special = coder.encode(example), re.compile("|".join(map(re.escape, SPECIAL[name])))
    whole = str(tokenizer.apply_chat_template(list(example.messages), tokenize=False))
    assert whole.startswith(str(tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False)))
    plain = Example([Message(role=turn["role"], content=special.sub("", turn["content"])) for turn in example.messages], example.supervised)
    counts = [Counter(token for token in one.input_ids.tolist() if token in tokenizer.all_special_ids) for one in (row, coder.encode(plain))]
    assert counts[0] == counts[1]  # what looks like a special token in a text is none
    runs = learned_runs(row)
    assert len(runs) == len(example.supervised)
    for turn, (start, stop) in zip(example.supervised, runs, strict=True):
        expected = response(name, example.messages[turn]["content"])
        ids = row.input_ids[start:stop].tolist()
        assert ids[-1] == tokenizer.convert_tokens_to_ids(ENDS[name])
        assert tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) == expected
        if not special.search(expected):
            assert ids[:-1] == tokenizer(expected, add_special_tokens=False).input_ids
        assert coder.encode_prompt(example.messages[:turn]) == (row.input_ids[:start].tolist(), 0)


@pytest.mark.parametrize("name", ["qwen3"])
def test_a_few_conversations_are_encoded_as_the_template_writes_them(name: str) -> None:
    coder = ChatEncoder(published_tokenizer(name), Encoding(max_length=100_000))
    for seed in range(5):
        assert_conversation_is_encoded(coder, name, conversation(seed, name))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SPECIAL)
def test_conversations_are_encoded_as_the_template_writes_them(name: str) -> None:
    coder = ChatEncoder(published_tokenizer(name), Encoding(max_length=100_000))
    for seed in range(180):
        assert_conversation_is_encoded(coder, name, conversation(seed, name))
