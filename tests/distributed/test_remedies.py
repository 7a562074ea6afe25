"""Ten steps of a remedy that is an optimizer, a schedule or a penalty are those of a naive loop in one process, on two ranks too.

A resumed run ends with the same weights.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.cases import chosen, fast_and_slow, torchrun
from tests.helpers.fits import distance, fit
from tests.helpers.remedies import REMEDIES, STEPS, naive_weights, precision

CASES = [f"{strategy}:{name}" for name in REMEDIES for strategy in ("ddp", "zero2", "zero3", "fsdp2")]
FAST = {"fsdp2:mofo", "zero2:ewc"}
pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("remedies")
    if any(case.endswith(":ewc") for case in chosen(request)):  # ZeRO-3 and FSDP2 read the Fisher information that another run has cached
        fit(folder, steps=1, trainer={"precision": "32-true", "default_root_dir": str(out / "first")}, **REMEDIES["ewc"]())
    torchrun("tests.distributed.remedies_worker", str(folder), str(out), *chosen(request))
    return out


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_ten_steps_on_two_ranks_are_those_of_a_naive_loop(folder: Path, two_ranks: Path, case: str) -> None:
    strategy, name = case.split(":")
    dtype = torch.float64 if precision(strategy) == "64-true" else torch.float32
    start, wanted = (naive_weights(name, folder, steps, dtype) for steps in (0, STEPS))
    assert distance(load_file(two_ranks / f"{strategy}_{name}_{STEPS}.safetensors"), wanted, start) < 1e-6


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_resumed_is_bitwise_uninterrupted(two_ranks: Path, case: str) -> None:
    whole, resumed = (load_file(two_ranks / f"{case.replace(':', '_')}_{steps}.safetensors") for steps in (STEPS, STEPS - 3))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
