"""Run by torchrun on two CPU ranks: two steps with the base model's own samples among the rows, whose weights rank 0 keeps."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lit_talr.modeling.strategies import end_process
from tests.distributed.worker import STRATEGIES
from tests.training.test_own_samples import run

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for case in sys.argv[2:]:
        weights = run(folder, f"{case}/run", trainer={"strategy": STRATEGIES[case](), "devices": 2, "precision": "32-true"})
        if os.environ["RANK"] == "0":
            save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / f"{case}.safetensors")
    end_process()
