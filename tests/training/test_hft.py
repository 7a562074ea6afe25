import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_talr.losses import Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.sharded import Part
from lit_talr.training.hft import HalfFineTuning, chosen_half
from tests.helpers.fits import distance, fit
from tests.helpers.params import first_is_fast
from tests.helpers.remedies import REMEDIES, STEPS, naive_hft

ATTENTION, FEED_FORWARD = ("q_proj", "k_proj", "v_proj", "o_proj"), ("up_proj", "down_proj", "gate_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")


def names_of(num_layers: int) -> tuple[str, ...]:
    """Of a Llama whose query has a bias."""
    inside = [*(f"self_attn.{name}.weight" for name in ATTENTION), "self_attn.q_proj.bias", *(f"mlp.{name}.weight" for name in FEED_FORWARD)]
    inside += [f"{name}.weight" for name in NORMS]
    layers = [f"model.layers.{layer}.{name}" for layer in range(num_layers) for name in inside]
    return ("model.embed_tokens.weight", *layers, "model.norm.weight", "lm_head.weight")


@pytest.mark.parametrize("seed", range(4))
def test_half_of_each_category_of_each_layer_is_chosen(seed: int) -> None:
    names = names_of(12)
    chosen = {names[number] for number in chosen_half(names, seed, 0)}
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= chosen
    sizes = []
    for layer in range(12):
        inside = {name.removeprefix(f"model.layers.{layer}.") for name in chosen if f".layers.{layer}." in name}
        assert sum(f"self_attn.{name}.weight" in inside for name in ATTENTION) == 2
        assert ("self_attn.q_proj.weight" in inside) == ("self_attn.q_proj.bias" in inside)
        assert sum(f"{name}.weight" in inside for name in NORMS) == 1
        sizes.append(sum(name.startswith("mlp.") for name in inside))
    assert sizes in ([1, 2] * 6, [2, 1] * 6)


def test_each_round_and_each_seed_chooses_anew_and_all_matrices_have_their_turn() -> None:
    names = names_of(12)
    rounds = [chosen_half(names, 0, number) for number in range(20)]
    assert len(set(rounds)) == 20 and chosen_half(names, 1, 0) not in rounds
    chosen_half.cache_clear()
    assert chosen_half(names, 0, 3) == rounds[3]
    assert frozenset.union(*rounds) == frozenset(range(len(names)))
    assert {names[number] for number in frozenset.intersection(*rounds)} == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


def parameters(names: tuple[str, ...]) -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(3, 2))) for name in names]


def test_frozen_weights_do_not_move_at_all_also_after_a_round_that_trained_them() -> None:
    named = parameters(names_of(2))
    optimizer = HalfFineTuning(named, lr=0.1, steps_per_round=2, weight_decay=0.5)
    for number in range(4):
        for _ in range(2):
            before = [weight.detach().clone() for _, weight in named]
            for _, weight in named:
                weight.grad = torch.randn(3, 2)
            optimizer.step()
            moved = {index for index, (_, weight) in enumerate(named) if not torch.equal(weight, before[index])}
            assert moved == chosen_half(names_of(2), 0, number)


def test_parts_of_one_flat_tensor_are_frozen_one_by_one() -> None:
    """As under ZeRO, where a rank steps one tensor with padding."""
    ours, theirs = parameters(names_of(1)), parameters(names_of(1))
    optimizer, other = HalfFineTuning(ours, lr=0.1, steps_per_round=2), HalfFineTuning(theirs, lr=0.1, steps_per_round=2)
    flat = nn.Parameter(torch.cat([*(weight.detach().flatten() for _, weight in theirs), torch.full((2,), 5.0)]))
    optimizer.param_groups[0]["params"] = [flat]
    optimizer.split(lambda: {flat: [Part(number, 6 * number, 6 * number + 6, 0) for number in range(len(theirs))]})
    for _ in range(5):
        for _, weight in theirs:
            weight.grad = torch.randn(3, 2)
        flat.grad = torch.cat([*(weight.grad.flatten() for _, weight in theirs if weight.grad is not None), torch.zeros(2)])
        optimizer.step()
        other.step()
    assert torch.equal(flat, torch.cat([*(weight.detach().flatten() for _, weight in theirs), torch.full((2,), 5.0)]))


def test_a_run_keeps_one_half_unless_rounds_are_asked_for(folder: Path) -> None:
    start = fit(folder, Standard(), 1, optimizer=partial(torch.optim.SGD, lr=0.0))
    whole, rounds = (fit(folder, Standard(), 6, optimizer=partial(HalfFineTuning, lr=0.01, steps_per_round=steps)) for steps in (None, 2))
    chosen = [{name for name in start if not torch.equal(weights[name], start[name])} for weights in (whole, rounds)]
    assert chosen[0] < chosen[1] and chosen[0] == {name for number, name in enumerate(start) if number in chosen_half(tuple(start), 0, 0)}
    share = len([name for name in chosen[0] if "layers" in name]) / len([name for name in start if "layers" in name])
    assert 0.4 < share < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", first_is_fast(2, 8))
def test_ten_steps_are_those_of_a_naive_loop(folder: Path, micro_batch_size: int) -> None:
    wanted, start = (naive_hft(folder, steps, torch.float64) for steps in (STEPS, 0))
    found = fit(folder, Standard(), STEPS, batching={"micro_batch_size": micro_batch_size}, **REMEDIES["hft"]())
    assert distance(found, wanted, start) < 1e-6


def test_resumed_within_a_round_is_bitwise_uninterrupted(folder: Path, tmp_path: Path) -> None:
    options = {"optimizer": partial(HalfFineTuning, lr=0.01, steps_per_round=3), "batching": {"micro_batch_size": 4}}
    whole = fit(folder, Standard(), 8, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1)
    fit(folder, Standard(), 5, trainer={"enable_checkpointing": True, "callbacks": [keep]}, **options)
    (checkpoint,) = tmp_path.glob("*.ckpt")
    resumed = fit(folder, Standard(), 8, ckpt_path=str(checkpoint), **options)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match="its model.optimizer.steps_per_round is 3, here 4"):
        fit(folder, Standard(), 8, ckpt_path=str(checkpoint), **{**options, "optimizer": partial(HalfFineTuning, lr=0.01, steps_per_round=4)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps_per_round": 0}, "`steps_per_round` must be at least 1, got 0; null keeps one half for the whole run"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"lr": -1.0}, r"`lr` must lie in \[0, inf\), got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HalfFineTuning(parameters(names_of(1)), **arguments)


def test_parameters_without_the_names_of_layers_are_refused(folder: Path) -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    sentence = "chooses by names such as `layers.0.mlp.up_proj.weight`, of which there are none; give it `model.named_parameters()`, or use AdamW."
    for params in ([weight], [("weight", weight)]):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            HalfFineTuning(params).step()
    with pytest.raises(ValueError, match="HalfFineTuning chooses among the model's own weights, which an adapter freezes; leave out `model.adapter`"):
        fit(folder, Standard(), 1, optimizer=HalfFineTuning, adapter=LoRA(r=2, alpha=2))
