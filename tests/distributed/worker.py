"""Run by torchrun on two CPU ranks: fits one case after the other and keeps the weights and the token statistics of each."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file

import lit_talr.domains.base
from lit_talr.callbacks import TokenProbability
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy, end_process
from tests.helpers.fits import ADAPTED, ADAPTERS, BESIDE_BASE, LOSSES, ON_RANKS, WEIGHTED, fit, records, weighted_records

STRATEGIES: dict[str, Callable[[], Any]] = {
    "ddp": partial(DDPStrategy, process_group_backend="gloo"),
    "zero1": partial(DeepSpeedCPUStrategy, stage=1),
    "zero2": partial(DeepSpeedCPUStrategy, stage=2),
    "zero3": partial(DeepSpeedCPUStrategy, stage=3),
    "zero3-offload": partial(DeepSpeedCPUStrategy, stage=3, offload=True),
    "fsdp2": FSDP2Strategy,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    lit_talr.domains.base.MANY = 10  # one rank encodes the rows, and the other reads them
    folder, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for case in sys.argv[4:]:
        strategy_name, loss_name, size = case.split(":")
        batching = {"micro_batch_tokens": 300, "packing": True} if size == "packed" else {"micro_batch_size": int(size)}
        strategy = STRATEGIES[strategy_name]()
        name = case.replace(":", "_")
        watch = TokenProbability(probe_size=7, num_bins=8, cohort_edges=[0.0037, 0.01])
        options = {"strategy": strategy, "devices": 2, "precision": "32-true", "callbacks": [watch], "default_root_dir": str(out / name / "run")}
        loss = {**LOSSES, **ON_RANKS, **BESIDE_BASE, **ADAPTED, **WEIGHTED}[loss_name]()
        data = weighted_records if loss_name in WEIGHTED else records
        weights = fit(folder, loss, steps=steps, adapter=ADAPTERS.get(loss_name), batching=batching, data=data, trainer=options)
        if os.environ["RANK"] == "0":
            save_file({name: weight.contiguous() for name, weight in weights.items()}, out / f"{name}.safetensors")
    end_process()
