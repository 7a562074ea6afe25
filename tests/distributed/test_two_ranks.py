"""Two real processes over gloo give the weights that one process gives."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_talr.losses import Standard
from tests.fits import LOSSES, ON_RANKS, distance, fit

CASES = [f"{strategy}:{loss}:{size}" for strategy in ("ddp", "zero2") for loss in LOSSES for size in (1, 4)]  # 4 micro-batches a rank, and 1
CASES += [f"ddp:{loss}:4" for loss in ON_RANKS]
STEPS = 5
ROOT = Path(__file__).parents[2]


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def start(folder: Path) -> dict[str, Tensor]:
    return fit(folder, Standard(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0), steps=1, trainer={"precision": "32-true"})


@pytest.fixture(scope="module")
def one_process(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {
        name: fit(folder, loss(), steps=STEPS, batching={"micro_batch_size": 8}, trainer={"precision": "32-true"})
        for name, loss in {**LOSSES, **ON_RANKS}.items()
    }


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights")
    done = torchrun("-m", "tests.distributed.worker", str(folder), str(out), str(STEPS), *CASES)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(two_ranks: Path, one_process: Any, start: Any, case: str) -> None:
    weights = load_file(two_ranks / f"{case.replace(':', '_')}.safetensors")
    assert distance(weights, one_process[case.split(":")[1]], start) < 1e-5
