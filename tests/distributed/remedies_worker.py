"""Run by torchrun on two CPU ranks: ten steps of each remedy that is an optimizer, a schedule or a penalty, whole and resumed, whose weights rank 0 keeps."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lit_talr.callbacks.checkpoint import WholeCheckpoint
from lit_talr.losses import Standard
from lit_talr.modeling.strategies import end_process
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit
from tests.helpers.remedies import REMEDIES, STEPS, precision

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        strategy, name = case.split(":")
        for stop in (STEPS, STEPS - 3):  # the second continues from a checkpoint of the first
            run = out / f"{strategy}_{name}"
            keep = WholeCheckpoint(every_n_train_steps=STEPS - 3, save_top_k=-1)
            options: dict[str, Any] = {"strategy": STRATEGIES[strategy](), "devices": 2, "precision": precision(strategy), "default_root_dir": str(run)}
            options |= {"enable_checkpointing": True, "callbacks": [keep]} if stop == STEPS else {}
            checkpoint = None if stop == STEPS else str(run / "checkpoints" / f"last-step={stop}.ckpt")
            remedy = {"loss": Standard(), **REMEDIES[name]()}
            weights = fit(folder, steps=STEPS, batching={"micro_batch_size": 2}, ckpt_path=checkpoint, trainer=options, **remedy)
            if os.environ["RANK"] == "0":
                save_file({name: weight.contiguous() for name, weight in weights.items()}, out / f"{strategy}_{name}_{stop}.safetensors")
            torch.distributed.barrier()
    end_process()
