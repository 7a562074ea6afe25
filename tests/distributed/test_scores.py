"""On two ranks, under every strategy, scores are in the arithmetic that they name and of the weights that they name; torchrun runs this file too."""

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport, Summary, WholeCheckpoint
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.losses import Standard
from lit_talr.modeling.strategies import end_process
from lit_talr.module import DomainSFT
from lit_talr.utils.score import read_scores
from tests.callbacks.test_checkpoint import Validations
from tests.distributed.cases import chosen, torchrun
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit, records, write_data

CASES = ["ddp", "zero2", "zero3", "fsdp2"]
SHARDED = ("zero3", "fsdp2")
ARITHMETICS = ("training", "fp32", "bf16")
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("scores")
    write_data(out / "data")
    model = AutoModelForCausalLM.from_pretrained(out / "data" / "model", dtype=torch.float32)
    for weight in model.parameters():
        weight.data.mul_(4)  # so that rounding shows
    model.save_pretrained(out / "data" / "model")
    torchrun("tests.distributed.test_scores", str(out / "data"), str(out), *chosen(request))
    return out


def naive_nll(data: Path, export: Path, dtype: torch.dtype) -> float:
    """The mean over the validation tokens of an export, row by row, in a dtype."""
    model = AutoModelForCausalLM.from_pretrained(export, dtype=dtype).eval()
    domain, total, number = records(data), 0.0, 0
    for example in domain.examples("val"):
        row = domain.encoder.encode(example)
        tokens, mask = torch.from_numpy(row.input_ids).long(), torch.from_numpy(row.supervised)[1:]
        labels = torch.where(mask, tokens[1:], IGNORE_INDEX)
        with torch.no_grad():
            hidden = model.get_decoder()(tokens[None, :-1], use_cache=False).last_hidden_state[0]
            logits = hidden.float() @ model.get_output_embeddings().weight.float().T
        total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum"))
        number += int(mask.sum())
    return total / number


@pytest.mark.parametrize("case", CASES)
def test_scores_are_in_the_arithmetic_that_they_name(out: Path, case: str) -> None:
    rounded = {"ddp": "bf16 autocast"}.get(case, "bf16 weights")
    found = {}
    for arithmetic in ARITHMETICS:
        run = out / case / arithmetic
        if case in SHARDED and arithmetic == "fp32":
            assert "`model.arithmetic: fp32` is not supported where every weight is sharded" in (run / "refusal.txt").read_text()
            continue
        found[arithmetic] = score = read_scores(run / "metrics.json")["fit"]["val/nll"]
        assert score.arithmetic == {"training": rounded, "fp32": "fp32", "bf16": "bf16 weights"}[arithmetic] and score.step == 5
    export = out / case / "training" / "export"
    in_bf16 = naive_nll(out / "data", export, torch.bfloat16)
    if case in SHARDED:
        assert found["bf16"].value == found["training"].value == pytest.approx(in_bf16, rel=5e-3)
    else:
        assert found["fp32"].value == pytest.approx(naive_nll(out / "data", export, torch.float32), rel=1e-5)
        assert found["bf16"].value == pytest.approx(in_bf16, rel=1e-3)
        assert abs(found["bf16"].value - in_bf16) < abs(found["fp32"].value - in_bf16)  # how much rounding shows depends on the processor
    assert len({score.weights for score in found.values()}) == len(found)  # other options are another run
    assert len({(score.base, score.items, score.num_items) for score in found.values()}) == 1


@pytest.mark.parametrize("case", CASES)
def test_training_is_bitwise_the_same_in_all(out: Path, case: str) -> None:
    first, *others = (path.read_bytes() for path in sorted((out / case).glob("*/export/model.safetensors")))
    assert others and all(other == first for other in others)


@pytest.mark.parametrize("case", CASES)
def test_the_best_are_best_by_a_metric_of_their_own_weights(out: Path, case: str) -> None:
    for run in (out / case / "training", out / case / "bf16"):
        seen = {int(step): value for step, value in json.loads((run / "validations.json").read_text()).items()}
        names = [path.name for path in (run / "checkpoints").glob("best*")]
        best = sorted(seen, key=lambda step: seen[step])[:2]
        assert sorted(int(re.findall(r"step=(\d+)", name)[0]) for name in names) == sorted(best)
        score = read_scores(run / "metrics.json")["fit"]["val/nll"]
        assert (score.step, score.value) == (5, pytest.approx(seen[5]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, runs = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        for arithmetic in ARITHMETICS:
            run, seen = runs / case / arithmetic, Validations()
            best = WholeCheckpoint(filename="best-{step}", monitor="val/nll", save_top_k=2)
            options: dict[str, Any] = {"devices": 2, "precision": "bf16-mixed", "default_root_dir": str(run), "limit_val_batches": None}
            options |= {"strategy": STRATEGIES[case](), "callbacks": [Summary(), WholeCheckpoint(), best, HFExport(), seen], "enable_checkpointing": True}
            options |= {"val_check_interval": 3, "check_val_every_n_epoch": None}
            module: Any = partial(DomainSFT, arithmetic=arithmetic)
            sgd = partial(torch.optim.SGD, lr=0.05)
            try:
                fit(data, Standard(), 5, module, sgd, batching={"micro_batch_size": 2}, trainer=options)
            except ValueError as error:
                run.mkdir(parents=True, exist_ok=True)
                (run / "refusal.txt").write_text(str(error))
            else:
                (run / "validations.json").write_text(json.dumps(seen.nll))
    end_process()
