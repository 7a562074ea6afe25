"""On two ranks the tokens of each group are those that one process counts, with the weights of the loss; torchrun runs this file too."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lit_talr.callbacks import TokenProbability
from lit_talr.curriculum.difficulty import GROUPS
from lit_talr.losses import FLOW, TALR, LossStrategy
from lit_talr.modeling.strategies import end_process
from tests.distributed.cases import chosen, torchrun
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit, noisy_records

LOSSES: dict[str, Callable[[], LossStrategy]] = {
    "fixed": partial(TALR, temperature=3.0),
    "ranks": partial(TALR, scope="ranks", normalize=True),  # gathers in its weights, also where a rank has no row
    "step": partial(TALR, scope="step"),
    "flow": FLOW,
}
CASES = ["ddp:ranks:4", "ddp:step:packed", "ddp:flow:1", "zero3:fixed:packed", "zero3:ranks:4", "fsdp2:step:1"]
SIZES: dict[str, dict[str, Any]] = {"packed": {"micro_batch_tokens": 300, "packing": True}, "1": {"micro_batch_size": 1}, "4": {"micro_batch_size": 4}}
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


def watched(data: Path, run: Path, loss: str, batching: dict[str, Any], **trainer: Any) -> None:
    callbacks = [TokenProbability(probe_size=9, num_bins=4, num_hardest=0)]
    options = {"precision": "32-true", "callbacks": callbacks, "default_root_dir": str(run), **trainer}
    fit(data, LOSSES[loss](), steps=4, data=noisy_records, batching=batching, trainer=options)


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("difficulty")
    torchrun("tests.distributed.test_difficulty", str(folder), str(out), *chosen(request))
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_group_the_tokens_that_one_process_groups(folder: Path, out: Path, tmp_path: Path, case: str) -> None:
    watched(folder, tmp_path, case.split(":")[1], {"micro_batch_size": 8})
    both, one = (pd.read_parquet(run / "token_probability.parquet") for run in (out / case.replace(":", "_"), tmp_path))
    assert both["num_tokens"].tolist() == one["num_tokens"].tolist()
    pd.testing.assert_frame_equal(both, one, rtol=1e-4)
    for (_, _), part in both[both["set"] != "train"].groupby(["set", "epoch"]):
        tokens = part.set_index("group")["num_tokens"]
        assert tokens[list(GROUPS)].sum() == tokens["all"] and tokens["noise"] > 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, runs = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        strategy, loss, size = case.split(":")
        watched(data, runs / case.replace(":", "_"), loss, SIZES[size], strategy=STRATEGIES[strategy](), devices=2)
    end_process()
