import pytest
from transformers import GenerationConfig

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.modeling.responder import stop_tokens
from tests.helpers.tiny import byte_tokenizer


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (None, (257, 260)),  # <eos> and <end_of_turn>
        (GenerationConfig(eos_token_id=[260, 256]), (257, 260, 256)),
        (GenerationConfig(eos_token_id=256), (257, 260, 256)),
        (GenerationConfig(), (257, 260)),
        (GenerationConfig(eos_token_id=2, _from_model_config=True), (257, 260)),
    ],
)
def test_the_tokens_of_published_settings_end_responses_too(published: GenerationConfig | None, expected: tuple[int, ...]) -> None:
    assert stop_tokens(published, ChatEncoder(byte_tokenizer("gemma3"), Encoding())) == expected
