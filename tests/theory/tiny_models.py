"""Random models, uneven enough that a wrong distribution is noticed."""

import torch
from transformers import PreTrainedModel

from lit_talr.modeling.loading import load_model
from tests.helpers.models import ARCHITECTURES


def small(vocabulary: int, seed: int = 0, family: str = "qwen3", sharpness: float = 20.0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """``sharpness`` multiplies the head; at 0 every token has the same probability."""
    torch.manual_seed(seed)
    model = load_model(None, None, {**ARCHITECTURES[family], "tie_word_embeddings": False}, vocabulary, "eager", dtype).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpness)
    return model
