"""The embedded base and tiny models."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tests.theory.tiny_models import small

LAB = Path(__file__).parents[2] / "lit_talr" / "lab" / "base"


@pytest.fixture(scope="session")
def base() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(LAB, dtype=torch.float32)


@pytest.fixture(scope="session")
def base_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(LAB)


@pytest.fixture(scope="session")
def model() -> PreTrainedModel:
    """For the byte tokenizers of ``tests.helpers.tiny``, which have fewer than 300 tokens."""
    return small(vocabulary=300)
