"""Half fine-tuning: AdamW of half of the matrices of each layer, the others being frozen."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from lit_talr.modeling.adapting import ADAPTER
from lit_talr.modeling.sharded import Part
from lit_talr.training.parts import PartsOptimizer
from lit_talr.utils.errors import check_least

IN_LAYER = re.compile(r"\blayers\.(\d+)\.(.+?)(?:\.weight|\.bias)?$")
"""The number of a layer, and the name of a matrix in it, which its bias shares."""


class HalfFineTuning(PartsOptimizer):
    """AdamW of a random half of each layer's matrices, the other half being frozen; each round chooses anew.

    In each layer, half of the attention's matrices, of the feed-forward's and of the norms are trained; a bias goes with its matrix. Of an odd number such as
    the feed-forward's three, every second layer trains one more. Embeddings, head and the last norm are always trained. A frozen weight does not move at all:
    neither its momentum nor weight decay changes it.

    The choice is a function of seed, round and the parameters' names, so that all ranks and a resumed run choose the same. Each round begins with AdamW's
    averages at zero. All gradients are computed, and clipping sees all of them: unlike the authors' runs, this saves no time.

    Source: "HFT: Half Fine-Tuning for Large Language Models" (Hui et al., ACL 2025, arXiv:2404.18466). It reports less forgetting than full fine-tuning at
    equal or better scores, and about 30 % less training time. The choice by category and the always trained embeddings and head are taken from summaries of
    the paper, which may be wrong in details. A round of the paper is a stage of fine-tuning or a task of a sequence, as here by default; rounds within a run
    are ours. So is what happens to the averages, to biases and to the last norm.

    Use: to keep half of the base model as it is, without its data.

    Args:
        params: The parameters that are trained, or tuples of name and parameter.
        lr: Learning rate.
        steps_per_round: Optimizer steps after which another half is chosen, at least 1; null keeps one half for the whole run.
        seed: Seed of the choices, at least 0; give each task of a sequence another one.
        betas: Coefficients of the running averages, in [0, 1).
        eps: Added to the root of v, at least 0.
        weight_decay: Decoupled, of trained weights, at least 0.

    Raises:
        ValueError: For a value out of range; at start-up for adapters; at the first step where no name was told, or none is a layer's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-6,
        steps_per_round: int | None = None,
        seed: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        check_least("steps_per_round", steps_per_round, 1, "null keeps one half for the whole run")
        check_least("seed", seed, 0)
        super().__init__(params, lr, betas, eps, weight_decay, {"steps_per_round": steps_per_round, "seed": seed})

    def name_parameters(self, names: Sequence[str]) -> None:
        if any(f".{ADAPTER}." in f"{name}." for name in names):
            raise ValueError("HalfFineTuning chooses among the model's own weights, which an adapter freezes; leave out `model.adapter`, or use AdamW.")
        super().name_parameters(names)

    def change(self, stepped: list[tuple[Tensor, dict[str, Any]]], parts: Mapping[Tensor, list[Part]]) -> None:
        for weight, group in stepped:
            state = self.state[weight]
            done = round(state["step"].item()) - 1
            number_of_round, done_in_round = divmod(done, group["steps_per_round"] or done + 1)
            if done_in_round == 0:
                state["exp_avg"].zero_()
                state["exp_avg_sq"].zero_()
            chosen = chosen_half(tuple(self.names), group["seed"], number_of_round)
            for part in parts[weight]:
                if part.number in chosen:
                    self.move_part(weight, part, done_in_round + 1, group)


@cache
def chosen_half(names: tuple[str, ...], seed: int, number_of_round: int) -> frozenset[int]:
    """The indices of the parameters that a round trains.

    Args:
        names: Of all parameters.
        seed: Seed of the choices.
        number_of_round: From 0.

    Raises:
        ValueError: For no names, and where none is a layer's.
    """
    layers: dict[str, dict[int, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    chosen = set(range(len(names)))
    for number, name in enumerate(names):
        if match := IN_LAYER.search(name):
            matrix = match[2]
            layers["norm" if "norm" in matrix else matrix.partition(".")[0]][int(match[1])][matrix].append(number)
            chosen.discard(number)
    if not layers:
        raise ValueError(
            "HalfFineTuning chooses by names such as `layers.0.mlp.up_proj.weight`, of which there are none; give it `model.named_parameters()`, or use AdamW."
        )
    draw = np.random.default_rng([seed, number_of_round])
    for category in sorted(layers):
        shift = int(draw.integers(2))
        for place, layer in enumerate(sorted(layers[category])):
            matrices = layers[category][layer]
            size = (len(matrices) + (place + shift) % 2) // 2
            for index in draw.permutation(len(matrices))[:size]:
                chosen.update(matrices[sorted(matrices)[index]])
    return frozenset(chosen)
