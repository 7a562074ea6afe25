"""On two ranks a run is compared, continued and changed as in one process, whether its strategy loads a checkpoint before or after the optimizer exists."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lit_talr.training.schedules import Cosine
from tests.distributed.cases import chosen, fast_and_slow, torchrun

CASES = ["ddp", "zero2", "zero3", "fsdp2"]
FAST = ["zero2"]
SCHEDULE = Cosine(warmup_ratio=0.3)
pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("resumed")
    shutil.copytree(folder, out / "data")  # whose rows change
    torchrun("tests.distributed.resume_worker", str(out / "data"), str(out), *chosen(request))
    return out


@pytest.fixture(params=[0, 1], ids=["rank 0", "rank 1"])
def found(two_ranks: Path, request: pytest.FixtureRequest, case: str) -> Any:
    return json.loads((two_ranks / f"{case}-{request.param}.json").read_text())


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_each_step_of_an_extended_run_has_the_rate_of_its_schedule(found: Any, case: str) -> None:
    assert found["first"]["rates"] == {str(step): pytest.approx(0.01 * SCHEDULE.factor(step, 3)) for step in range(3)}
    assert found["longer"]["rates"] == {str(step): pytest.approx(0.01 * SCHEDULE.factor(step, 6)) for step in range(3, 6)}


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_a_change_on_purpose_takes_effect(found: Any, case: str) -> None:
    seen = found["on purpose"]
    assert seen["rates"] == {str(step): pytest.approx(0.05 * SCHEDULE.factor(step, 5)) for step in range(3, 5)}
    assert (seen["group"]["initial_lr"], seen["group"]["weight_decay"], seen["group"]["betas"]) == (0.05, 0.3, [0.8, 0.9])
    assert seen["moment"] == found["longer"]["moment"] > 0 == found["first"]["moment"]


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_another_run_is_refused_on_every_rank(found: Any, case: str) -> None:
    assert "its model.optimizer.lr is 0.01, here 0.05" in found["lr"]
    assert "its model.loss is Standard, here TALR" in found["loss"]
    assert "its trainer.gradient_clip_val is null, here 0.5" in found["clip"]
    assert "its data.batching.seed is 0, here 1" in found["seed"]
    assert "its training rows (hash of their tokens) is " in found["rows"]
    assert "`--resume_with model.optimizer.eps` changes nothing" in found["nothing"]
