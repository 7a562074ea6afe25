"""On two ranks, under every strategy, the visible share is that of the export by the naive formula; torchrun runs this file too."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport, Summary, VisibleUpdate
from lit_talr.losses import Standard
from lit_talr.modeling.strategies import end_process
from tests.callbacks.test_visible_update import RATE, naive
from tests.distributed.cases import chosen, torchrun
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit, write_data
from tests.helpers.scores import read_values

CASES = [*(f"{strategy}:bf16-mixed" for strategy in ("ddp", "zero1", "zero2", "zero3", "fsdp2")), "zero1:bf16-true"]
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("visible")
    write_data(out / "data")
    AutoModelForCausalLM.from_pretrained(out / "data" / "model", dtype=torch.bfloat16).save_pretrained(out / "data" / "model")
    torchrun("tests.distributed.test_visible_update", str(out / "data"), str(out), *chosen(request))
    return out


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_naive_formula(out: Path, case: str) -> None:
    run = out / case.replace(":", "_")
    visible = read_values(run, "fit")["update/visible"]
    assert visible == pytest.approx(naive(out / "data" / "model", run / "export", torch.bfloat16), rel=1e-6) and 0.05 < visible < 0.95


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, runs = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        strategy, precision = case.split(":")
        callbacks = [Summary(), VisibleUpdate(), HFExport()]
        options = {"devices": 2, "precision": precision, "callbacks": callbacks, "default_root_dir": str(runs / case.replace(":", "_"))}
        adam = partial(torch.optim.AdamW, lr=RATE, weight_decay=0.0)
        fit(data, Standard(), steps=4, optimizer=adam, batching={"micro_batch_size": 4}, trainer={**options, "strategy": STRATEGIES[strategy]()})
    end_process()
