import copy

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_talr.theory import drift, proposition, tree_of_model
from lit_talr.theory.walk import start_token
from tests.theory.tiny_models import small


def shaken(model: PreTrainedModel, scale: float) -> PreTrainedModel:
    """A copy whose weights are off by some of their own size."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight += scale * weight.std() * torch.randn(weight.shape, generator=generator) if weight.ndim > 1 else 0
    return other


def test_on_a_tree_both_estimates_are_the_exact_divergence() -> None:
    first, second = small(5, 0), small(5, 1)
    trees = [tree_of_model(model, depth=4, start=0) for model in (first, second)]
    exact = proposition(trees[0], trees[0], trees[1]).change / 4
    found = drift(first, second, start=0, num_sequences=2000, num_tokens=4, batch_size=500)
    assert exact > 0.01 and found.num_tokens == 8000
    assert abs(found.change - exact) < 3 * found.change_error and abs(found.kl - exact) < 3 * found.kl_error
    assert found.kl_error < found.change_error


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_on_the_base_the_change_in_code_length_is_the_divergence(base: PreTrainedModel, base_tokenizer: PreTrainedTokenizerBase, scale: float) -> None:
    found = drift(base, shaken(base, scale), start_token(base_tokenizer), num_sequences=48, num_tokens=32)
    assert abs(found.change - found.kl) < 3 * found.difference_error
    assert found.kl > 5 * found.kl_error


def test_a_model_has_not_drifted_from_itself(model: PreTrainedModel) -> None:
    found = drift(model, model, start=0, num_sequences=4, num_tokens=8)
    assert found.change == 0 and found.kl == 0


def test_the_seed_decides(model: PreTrainedModel) -> None:
    other = small(300, seed=1)
    one, two, three = (drift(model, other, 0, num_sequences=4, num_tokens=8, seed=seed) for seed in (0, 0, 1))
    assert one == two != three


def test_refusals(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="`num_sequences` must be at least 2, got 1; one sequence has no standard error"):
        drift(model, model, 0, num_sequences=1)
    with pytest.raises(ValueError, match="`second` must have the vocabulary of `first`, 300 tokens, got 200"):
        drift(model, small(200), 0)
    with pytest.raises(ValueError, match="at most the 8192 positions"):
        drift(model, model, 0, num_tokens=9000)
