"""Run by torchrun on two CPU ranks: fits whose loss is spoiled in one step, on the last rank alone; keeps the weights, or how each rank was stopped."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lit_talr.modeling.strategies import end_process
from lit_talr.module import DomainSFT
from lit_talr.training.non_finite import NonFinite
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import LOSSES, fit
from tests.training.test_non_finite import Spoiled

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        strategy, action, by, loss, size = case.split(":")
        run = out / case.replace(":", "_")
        options = {"strategy": STRATEGIES[strategy](), "devices": 2, "precision": "32-true", "default_root_dir": str(run)}
        module: Any = partial(DomainSFT, non_finite=NonFinite(action))  # type: ignore[arg-type]
        try:
            weights = fit(folder, Spoiled(LOSSES[loss](), by), module_class=module, batching={"micro_batch_size": int(size)}, trainer=options)  # type: ignore[arg-type]
        except ValueError as error:
            (out / f"{run.name}.{os.environ['RANK']}").write_text(str(error))
        else:
            if os.environ["RANK"] == "0":
                save_file({name: weight.contiguous() for name, weight in weights.items()}, out / f"{run.name}.safetensors")
    end_process()
