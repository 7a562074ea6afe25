"""Small fits, for tests that compare the weights they end with."""

import json
import random
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Split
from lit_talr.domains import Records
from lit_talr.losses import FLOW, KL, L2, TALR, InfoSFT, LossStrategy, MaskTheTarget, Rho1, Standard
from lit_talr.modeling.adapters import BOFT, OFT, OSF, Adapter, LoRA
from lit_talr.modeling.adapting import ADAPTER
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.sharded import whole
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Constant, Schedule
from tests.helpers.tiny import save_tokenizer

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
LOSSES: dict[str, Callable[[], LossStrategy]] = {
    "standard": Standard,
    "talr-step": partial(TALR, scope="step"),
    "l2": lambda: L2(Standard(), coefficient=0.05),
    "flow": FLOW,
    "rho1": partial(Rho1, scope="sequence"),
}
ON_RANKS: dict[str, Callable[[], LossStrategy]] = {
    "talr-ranks": partial(TALR, scope="ranks"),
    "talr-ranks-normalize": partial(TALR, scope="ranks", statistic="token", normalize=True),
}
"""Where one micro-step on all ranks is the whole step, these are one process with the step in one micro-batch."""
BESIDE_BASE: dict[str, Callable[[], LossStrategy]] = {
    "kl": lambda: KL(InfoSFT(), 2.0),
    "mask": lambda: MaskTheTarget(InfoSFT(), 2.0),
}
"""With the base model beside the trained one."""
WEIGHTED: dict[str, Callable[[], LossStrategy]] = {"weighted": partial(TALR, scope="step")}
"""Over ``weighted_records``."""
ADAPTERS: dict[str, Adapter] = {
    "lora": LoRA(r=2, alpha=2),
    "dora": LoRA(r=2, alpha=2, use_dora=True),
    "pissa": LoRA(r=2, alpha=2, init_lora_weights="pissa"),
    "oft": OFT(block_size=4),
    "boft": BOFT(block_size=4),
    "osf": OSF(),
}
ADAPTED: dict[str, Callable[[], LossStrategy]] = dict.fromkeys(ADAPTERS, Standard)
"""Trained through adapters."""
LORA = ADAPTERS["lora"]
BATCH_SIZE = 8
SGD = partial(torch.optim.SGD, lr=0.3)


def write_data(folder: Path, num_rows: int = 20) -> None:
    """A tokenizer, a base model, and rows whose answers differ in length, in the last step fewer than a whole batch."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder / "tokenizer", "qwen2")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    load_model(None, None, QWEN3, 259, None).save_pretrained(folder / "model")
    torch.set_default_dtype(torch.float32)
    draw = random.Random(0)
    rows = [{"prompt": f"Repeat {n}: " + "ab" * draw.randint(1, 9), "response": "ba" * draw.randint(1, 12)} for n in range(num_rows)]
    for name, part in (("train", rows), ("val", rows[:4]), ("test", rows[:4])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    weighted = [{**row, "row_weight": draw.choice((0.5, 1, 3.7)), "spans": draw_spans(draw, len(row["response"]))} for row in rows]
    (folder / "weighted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in weighted))


def draw_spans(draw: random.Random, length: int) -> list[tuple[int, int, float]]:
    """Half of the rows have a span or two, some of weight 0."""
    places = sorted(draw.sample(range(length + 1), draw.choice((0, 0, 2, 2, 3))))
    return [(start, end, draw.choice((0, 0.3, 2))) for start, end in pairwise(places)]


def records(folder: Path, **batching: Any) -> Records:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "val", "test")}
    return Records(str(folder / "tokenizer"), batching=Batching(**{"batch_size": BATCH_SIZE, **batching}), **files)


def weighted_records(folder: Path, **batching: Any) -> Records:
    """The same rows with weights of rows and spans, and prompts that are learned too."""
    own, train = records(folder, **batching), str(folder / "weighted.jsonl")
    options: dict[str, Any] = {"weight": "row_weight", "span_weights": "spans", "encoding": Encoding(prompt_weight=0.3)}
    return Records(own.tokenizer, batching=own.batching, train=train, val=own.val, test=own.test, **options)


class NoisyRecords(Records):
    """Rows in which every learned ``b`` is noise."""

    def encode(self, split: Split) -> None:
        super().encode(split)
        for encoded in self.encoded.values():
            encoded.noise = encoded.supervised & (encoded.tokens == ord("b"))


def noisy_records(folder: Path, held_out: float = 0.4, **batching: Any) -> NoisyRecords:
    """The same rows, some of them set aside."""
    own = records(folder, **batching)
    return NoisyRecords(own.tokenizer, batching=own.batching, held_out=held_out, train=own.train, val=own.val, test=own.test)


def fit(
    folder: Path,
    loss: LossStrategy,
    steps: int = 5,
    module_class: Callable[..., DomainSFT] = DomainSFT,
    optimizer: Any = SGD,
    architecture: dict[str, Any] | None = None,
    adapter: Adapter | None = None,
    batching: dict[str, Any] | None = None,
    ckpt_path: str | None = None,
    data: Callable[..., Records] = records,
    schedule: Schedule | None = None,
    trainer: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Train from one seed and give the weights at the end; over 20 rows, a step has 8, 8 and 4 examples in turn."""
    seed_everything(0, verbose=False)
    pretrained = None if architecture else str(folder / "model")
    module = module_class(loss, optimizer=optimizer, schedule=schedule or Constant(), pretrained=pretrained, architecture=architecture, adapter=adapter)
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "precision": "64-true",
        "max_epochs": 10,
        "max_steps": steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": str(folder),
    }
    runner = Trainer(**{**options, **(trainer or {})})
    runner.fit(module, datamodule=data(folder, **(batching or {})), ckpt_path=ckpt_path)
    assert module.backbone is not None
    return {name: whole(parameter).clone() for name, parameter in module.backbone.model.named_parameters()}


def distance(first: dict[str, Tensor], second: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Norm of the difference of two results, relative to how far the second moved from the start."""
    assert first.keys() == second.keys() == start.keys()
    flat = lambda weights: torch.cat([weights[name].double().flatten() for name in start])  # noqa: E731
    return float((flat(first) - flat(second)).norm() / (flat(second) - flat(start)).norm())


def merged(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The naive formula: the state of the same model without adapters, their update added in float32 (float64 for a float64 model).

    Args:
        model: With adapters; only its structure is read.
        state: Its whole state dict.
    """
    casts: dict[int, Tensor] = {}  # tied weights stay one tensor
    wide = {
        name: casts.setdefault(value.data_ptr(), value.to(torch.promote_types(value.dtype, torch.float32))) if value.is_floating_point() else value
        for name, value in state.items()
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            first, second = (wide.pop(f"{name}.lora_{part}.{ADAPTER}.weight") for part in "AB")
            base = f"{name}.base_layer.weight"
            wide[base] = wide[base] + module.scaling[ADAPTER] * (second @ first)  # not in place: it may be the model's own
    return {name.replace(".base_layer.", "."): value for name, value in wide.items()}
