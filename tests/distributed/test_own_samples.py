"""Rank zero samples from the base model, and two ranks take the steps that one process takes."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.distributed.cases import chosen, fast_and_slow, torchrun
from tests.helpers.fits import distance
from tests.training.test_own_samples import rows, run, write_base

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("own_samples")
    write_base(folder)
    torchrun("tests.distributed.own_samples_worker", str(folder), *chosen(request))
    return folder


@pytest.mark.parametrize("case", fast_and_slow(["ddp", "zero2"], []))
def test_two_ranks_have_the_samples_and_the_steps_of_one_process(folder: Path, case: str) -> None:
    start, one = (run(folder, f"one-{steps}/run", steps, trainer={"precision": "32-true"}) for steps in (1, 2))
    assert rows(folder, f"{case}/run") == rows(folder, "one-2/run") and len(rows(folder, f"{case}/run")) == 24
    assert distance(load_file(folder / f"{case}.safetensors"), one, start) < 1e-4
