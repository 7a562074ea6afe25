"""Writes the table of docs/scaling.md: python -m docs.make_scaling, from docs/scaling/models.json; nothing is downloaded. It takes a quarter of an hour."""

import json
import re
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy

from lit_talr.data.batch_plan import Batching
from lit_talr.estimate.command import GIB
from lit_talr.estimate.facts import Facts
from lit_talr.estimate.memory import memory_of, read_model
from lit_talr.estimate.time import GPUS, ROOM, UTILIZATION, seconds, sent
from lit_talr.losses import TALR
from lit_talr.modeling.loading import new_config
from lit_talr.modeling.strategies import FSDP2Strategy
from lit_talr.training.building import Compute

PAGE = Path(__file__).parent / "scaling.md"
RANKS = (1, 8, 64, 512)
LENGTH = 4096


def rows() -> list[str]:
    """A row for each model, strategy and number of GPUs."""
    made = [
        "|model|strategy|GPUs|weights|gradients|optimizer|engine|activations or step|peak, GiB|fits|exchange, GB|step, s: compute, exchange|",
        f"|{'---|' * 12}",
    ]
    models = json.loads((PAGE.parent / "scaling" / "models.json").read_text(encoding="utf-8"))
    adamw = partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.0, fused=True)
    for name, fields in models.items():
        config = new_config({key: value for key, value in fields.items() if key != "source"}, 0)
        for strategy in (DeepSpeedStrategy(stage=2), DeepSpeedStrategy(stage=3), FSDP2Strategy()):
            for ranks in RANKS:
                one = Batching(batch_size=ranks, micro_batch_size=1)
                facts = Facts(config, Compute(gradient_checkpointing=True), None, TALR(), adamw, "bf16-mixed", strategy, ranks, one, LENGTH, 1.0, 0)
                model = read_model(facts)  # the moment of the peak depends on the number of ranks
                memory, times = memory_of(facts, model), seconds(facts, model, GPUS["H100 80"], UTILIZATION)
                parts = memory.weights, memory.gradients, memory.optimizer, memory.engine, memory.live.activations + memory.live.head, memory.peak
                fits = next((gpu for gpu, sheet in GPUS.items() if memory.peak <= ROOM * sheet.memory), "none")
                cells = [name, facts.engine, str(ranks), *(f"{part / GIB:,.1f}" for part in parts), fits, f"{sent(facts, model) / 1e9:,.1f}"]
                made.append(f"|{'|'.join(cells)}|{times[0]:.1f}, {times[1]:.1f}|")
    return made


if __name__ == "__main__":
    table = "\n".join(rows())
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"(?<=<!-- table -->\n).*?(?=<!-- /table -->)", lambda _: f"{table}\n", text, flags=re.DOTALL), encoding="utf-8")
