import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.generation import Generation, Response, generate
from lit_talr.modeling.loading import load_model
from tests.helpers.models import ARCHITECTURES
from tests.helpers.tiny import byte_tokenizer

SETTINGS = Generation(max_new_tokens=12)
TOKENIZER = byte_tokenizer("qwen2")
STOP = TOKENIZER.eos_token_id
PROMPTS = [list(b"a"), list(b"a rather longer prompt than the others"), list(b"abc")]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model = load_model(None, None, ARCHITECTURES[request.param], len(TOKENIZER), None)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)  # answers that vary, and no ties
    return Backbone(model).model


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int], stops: list[int]) -> tuple[list[int], bool]:
    """A plain loop without cache or padding."""
    model.eval()
    tokens = list(prompt)
    for _ in range(SETTINGS.max_new_tokens):
        token = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        if token in stops:
            return tokens[len(prompt) :], False
        tokens.append(token)
    return tokens[len(prompt) :], True


def test_a_batch_is_answered_as_each_prompt_alone(model: PreTrainedModel) -> None:
    free = [greedy(model, prompt, [])[0] for prompt in PROMPTS]
    stops = [STOP, free[0][5]]  # so that one answer stops inside
    answers = generate(model, TOKENIZER, PROMPTS, stops, SETTINGS)
    for answer, prompt in zip(answers, PROMPTS, strict=True):
        tokens, cut = greedy(model, prompt, stops)
        assert answer == Response(TOKENIZER.decode(tokens, skip_special_tokens=True), len(tokens), cut)
    assert not answers[0].cut


def test_the_model_is_left_as_it_was(model: PreTrainedModel) -> None:
    model.train()
    model.generation_config = own = GenerationConfig(repetition_penalty=5.0, do_sample=True, max_new_tokens=3)
    answers = generate(model, TOKENIZER, PROMPTS, [STOP], SETTINGS)
    assert model.training and model.generation_config is own
    assert answers[1].num_tokens == len(greedy(model, PROMPTS[1], [STOP])[0])  # the model's own settings were not read


def test_a_prompt_that_was_too_long_goes_unanswered(model: PreTrainedModel) -> None:
    answers = generate(model, TOKENIZER, [[], PROMPTS[0], []], [STOP], SETTINGS)
    assert [answer.unanswered for answer in answers] == [True, False, True]
    assert answers[0] == Response("", 0, cut=False, unanswered=True)
    assert generate(model, TOKENIZER, [], [STOP], SETTINGS) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "`generation.max_new_tokens` must be at least 1, got 0"),
        ({"temperature": -1.0}, r"`generation.temperature` must be 0 \(greedy\), or at least 0.001 and finite, got -1.0"),
        ({"temperature": 1e-320}, "`generation.temperature` must be 0 .greedy., or at least 0.001 and finite, got 1e-320"),
        ({"temperature": float("nan")}, "`generation.temperature` must be 0 .greedy., or at least 0.001 and finite, got nan"),
        ({"temperature": float("inf")}, "`generation.temperature` must be 0 .greedy., or at least 0.001 and finite, got inf"),
        ({"top_k": -1}, r"`generation.top_k` must be at least 0, got -1; 0 is all tokens"),
        ({"top_p": 0.0}, r"`generation.top_p` must lie in \(0, 1\], got 0.0"),
    ],
)
def test_refusals(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generation(**arguments)  # type: ignore[arg-type]
