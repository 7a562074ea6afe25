"""Samples of the base model: those of a naive sampler, between the texts that a template writes."""

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.generation import Generation, Response
from lit_talr.modeling.loading import load_model
from lit_talr.training import base_samples
from lit_talr.training.base_samples import NO_PROMPT, NO_RESPONSE, NOT_ENCODED, Sampling, check_room, opening, repetition, sample, sample_prompts, user_turn
from tests.helpers.fits import QWEN3
from tests.helpers.tiny import byte_tokenizer

MISTRAL = "{% for turn in messages %}{{ '[INST] ' + turn.content + ' [/INST] ' if turn.role == 'user' else turn.content + eos_token }}{% endfor %}"
STOPS = {258, *range(8)}  # the end of turn, and tokens that the model's generation settings add
SAMPLING = Sampling(0, Generation(20, 1.0), Generation(20, 0.7))


def encoder(family: str = "qwen2", template: str | None = None) -> ChatEncoder:
    return ChatEncoder(byte_tokenizer(family, template), Encoding(max_length=400))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    model = load_model(None, None, QWEN3, 259, None).double()
    model.generation_config = GenerationConfig(eos_token_id=sorted(STOPS))
    return Backbone(model).eval()


def naive_texts(backbone: Backbone, prompts: list[list[int]], temperature: float, number: int) -> list[list[int]]:
    """Each row's own forward over all its tokens for every token; a row that has ended draws on, and the draws are not used."""
    rows: list[list[int]] = [[] for _ in prompts]
    for _ in range(number):
        logits = [backbone.model(torch.tensor([prompt + row])).logits[0, -1] for prompt, row in zip(prompts, rows, strict=True)]
        drawn: Tensor = torch.multinomial((torch.stack(logits).float() / temperature).softmax(-1), 1)[:, 0]
        for row, token in zip(rows, drawn.tolist(), strict=True):
            row += [] if STOPS & set(row) else [token]
        if all(STOPS & set(row) for row in rows):
            break
    return rows


@torch.no_grad()
def test_samples_and_confidences_are_those_of_a_naive_sampler(backbone: Backbone) -> None:
    own, number = encoder(), 6
    torch.manual_seed(6)
    samples = sample(backbone, own, SAMPLING, number, [])
    torch.manual_seed(6)
    decode = own.tokenizer.decode
    prompts = [(decode(row[:-1], skip_special_tokens=True).strip(), bool(STOPS & set(row))) for row in naive_texts(backbone, [opening(own)] * number, 1.0, 20)]
    asked = {index: own.encode_prompt([Message(role="user", content=text)])[0] for index, (text, ended) in enumerate(prompts) if text and ended}
    responses = dict(zip(asked, naive_texts(backbone, list(asked.values()), 0.7, 20), strict=True))
    assert 0 < len(asked) < number, "some user's turns do not end"
    for index, drawn in enumerate(samples):
        row = responses.get(index)
        if row is None:
            assert drawn.fault == NO_PROMPT and len(drawn.messages) == 1
            continue
        *_, user, assistant = drawn.messages
        assert (
            user["content"] == prompts[index][0]
            and assistant["content"] == decode([token for token in row if token not in STOPS], skip_special_tokens=True).strip()
        )
        assert drawn.fault == (None if STOPS & set(row) else NO_RESPONSE)
        if drawn.fault is None:
            ids = own.encode(Example.from_prompt(user["content"], assistant["content"]))
            nll = torch.nn.functional.cross_entropy(
                backbone.model(torch.tensor(ids.input_ids[:-1])[None].long()).logits[0], torch.tensor(ids.input_ids[1:]).long(), reduction="none"
            )[torch.tensor(ids.supervised[1:])]
            assert drawn.confidence == pytest.approx(-float(nll.mean()), abs=1e-6) and drawn.num_tokens == len(nll)
    assert {drawn.fault for drawn in samples} == {None, NO_PROMPT, NO_RESPONSE}


@pytest.mark.parametrize(
    ("family", "template", "before", "after", "end"),
    [
        ("qwen2", None, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        ("gemma2", None, "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
        ("plain", MISTRAL, "[INST] ", " [/INST] ", "[/INST]"),
        ("plain", None, "", "\n\n", "\n\n"),
    ],
)
def test_a_users_turn_stands_where_the_template_puts_it(family: str, template: str | None, before: str, after: str, end: str) -> None:
    assert user_turn(encoder(family, template)) == (before, after, end)


def test_a_text_begins_with_the_start_token() -> None:
    assert opening(encoder("plain-bos")) == [258], "BOS"
    assert opening(encoder("plain")) == [257], "EOS, where there is no BOS"


def test_a_users_turn_ends_with_its_text_or_a_stop_token(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [
        Response(" What is it? [/INST] It is", 20, cut=True),
        Response("no end", 20, cut=True),
        Response("ended", 6, cut=False),
        Response(" [/INST] answer", 9, cut=False),
    ]
    monkeypatch.setattr(base_samples, "generate", lambda *_: written)
    prompts = sample_prompts(backbone, encoder("plain", MISTRAL), SAMPLING.prompts, 4)
    assert [prompt.messages[0]["content"] for prompt in prompts] == ["What is it?", "", "ended", ""]


def test_responses_that_cannot_be_learned_are_named(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Response(" fine ", 3, cut=False), Response("cut", 80, cut=True), Response(" ", 1, cut=False), Response("x" * 500, 70, cut=False)]
    monkeypatch.setattr(base_samples, "generate", lambda *_: answers)
    asked = [Example([Message(role="user", content="?")], ())] * 4
    samples = sample(backbone, encoder(), SAMPLING, 4, asked)
    assert [drawn.fault for drawn in samples] == [None, NO_RESPONSE, NO_RESPONSE, NOT_ENCODED]
    assert samples[0].messages[-1] == {"role": "assistant", "content": "fine"} and samples[0].num_tokens == 5


def test_repetition_is_the_share_of_passages_that_were_there_before() -> None:
    assert repetition([1, 2, 3]) == 0, "no passage"
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 8) == pytest.approx(4 / 5)
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_conversations_beyond_the_models_positions_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="`prompt_tokens` 20 and `response_tokens` 450 make, .*, conversations of up to 527 tokens, more than the 512"):
        check_room(backbone, encoder(), SAMPLING._replace(responses=Generation(450)))
