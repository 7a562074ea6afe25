"""Two real processes skip a step, or stop, together, though the loss is spoiled on one of them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lit_talr.losses import Standard
from lit_talr.training.non_finite import FILE
from tests.distributed.cases import chosen, torchrun
from tests.helpers.fits import LOSSES, distance, fit
from tests.training.test_non_finite import SKIP, STEP_IDS, Spoiled

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2")
SKIPPED = [f"{strategy}:skip:{case}" for strategy in STRATEGIES for case in ("nan:l2:1", "inf:l2:4")]  # DeepSpeed skips NaN gradients by itself
SKIPPED += [f"{strategy}:skip:inf:talr-step:1" for strategy in ("ddp", "zero3")]
SKIPPED += ["ddp:skip:gradient:l2:4", "fsdp2:skip:gradient:l2:1"]
STOPPED = [f"{strategy}:stop:inf:standard:1" for strategy in STRATEGIES] + ["zero2:stop:nan:standard:1"]
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("out")
    torchrun("tests.distributed.non_finite_worker", str(folder), str(out), *chosen(request))
    return out


@pytest.fixture(scope="module")
def one_process(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    trainer = {"precision": "32-true", "default_root_dir": str(tmp_path_factory.mktemp("alone"))}
    return {name: fit(folder, Spoiled(LOSSES[name]()), module_class=SKIP, batching={"micro_batch_size": 8}, trainer=trainer) for name in ("l2", "talr-step")}


@pytest.mark.parametrize("case", SKIPPED)
def test_two_ranks_skip_what_one_process_skips(folder: Path, out: Path, one_process: dict[str, Any], case: str) -> None:
    start = fit(folder, Standard(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.0), trainer={"precision": "32-true"})
    weights = load_file(out / f"{case.replace(':', '_')}.safetensors")
    assert distance(weights, one_process[case.split(":")[3]], start) < 1e-5


@pytest.mark.parametrize("case", STOPPED)
def test_two_ranks_stop_together(out: Path, case: str) -> None:
    run = out / case.replace(":", "_")
    sentences = [(out / f"{run.name}.{rank}").read_text() for rank in range(2)]
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith(f"The loss of step 2 is not finite (4 examples, see {run / FILE})")


@pytest.mark.parametrize("case", [*SKIPPED, *STOPPED])
def test_the_file_has_the_examples_of_the_rank_that_spoiled_the_loss(out: Path, case: str) -> None:
    rows = [json.loads(line) for line in (out / case.replace(":", "_") / FILE).read_text().splitlines()]
    whole_step = "gradient" in case  # which no micro-batch is to blame for
    assert {(row["step"], row["rank"]) for row in rows} == ({(2, 0), (2, 1)} if whole_step else {(2, 1)})
    assert len({row["example"] for row in rows}) == len(rows) == (8 if whole_step else 4) and {row["example"] for row in rows} <= set(STEP_IDS)
