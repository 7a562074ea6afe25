"""A run's options have the same names and values whether they come from a configuration or from the objects."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from lit_talr.data.batch_plan import Batching
from lit_talr.losses import L2, TALR, Standard
from lit_talr.modeling.adapters import LoRA
from lit_talr.module import DomainSFT
from lit_talr.training.configuration import describe, flatten, module_options, optimizer_options
from lit_talr.training.schedules import Cosine


def test_a_configuration_and_its_objects_agree() -> None:
    l2 = {"class_path": "lit_talr.L2", "init_args": {"coefficient": 0.5, "loss": {"class_path": "lit_talr.losses.TALR", "init_args": {"floor": 0.1}}}}
    objects = describe("model.loss", L2(TALR(floor=0.1), coefficient=0.5))
    assert objects.items() >= flatten("model", {"loss": l2}).items()
    schedule = {"class_path": "Cosine", "init_args": {"warmup_ratio": 0.1, "warmup_steps": 0}}
    assert flatten("model.schedule", {**schedule, "class_path": "lit_talr.Cosine"}) == describe("model.schedule", Cosine(warmup_ratio=0.1))


def test_values_become_plain() -> None:
    assert describe("a", {"b": {"c": (1, Path("d"))}, "e": {}}) == {"a.b.c": [1, "d"], "a.e": {}}
    assert describe("a", None) == {"a": None} and describe("a", {}) == {"a": {}}
    assert type(describe("a", np.float64(0.5))["a"]) is float
    assert describe("a", torch.tensor([1.0])) == {"a": [1.0]} and describe("a", {2, 1}) == {"a": [1, 2]}
    assert describe("lora", LoRA(r=2))["lora.r"] == 2 and describe("batching", Batching())["batching.seed"] == 0


def test_the_optimizer_is_its_class_and_its_groups() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    options = optimizer_options(torch.optim.AdamW([{"params": [first], "weight_decay": 0.1}, {"params": [second]}], lr=0.5))
    assert options["model.optimizer"] == "torch.optim.adamw.AdamW"
    assert (options["model.optimizer.lr"], options["model.optimizer.weight_decay"], options["model.optimizer.betas"]) == (0.5, [0.1, 0.01], [0.9, 0.999])


def test_a_module_is_described_without_its_optimizer() -> None:
    class Mine(DomainSFT):
        def __init__(self, mine: int, loss: Standard) -> None:
            super().__init__(loss, optimizer=partial(torch.optim.SGD, lr=1.0), bf16_weights=True)
            self.mine = mine

    options = module_options(Mine(3, Standard()))
    assert options["model.mine"] == 3 and options["model.bf16_weights"] is True and options["model.schedule.warmup_ratio"] == 0.03
    assert options["model.architecture"] is None and options["model.generation.max_new_tokens"] == 1024
    assert not any(name.startswith("model.optimizer") for name in options)
