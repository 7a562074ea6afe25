"""On two ranks, under every strategy, the export and the checkpoint afterwards hold the weights that were in memory; torchrun runs this file too."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_talr.callbacks import HFExport, WholeCheckpoint
from lit_talr.checkpoint.checkpoint_weights import checkpoint_weights
from lit_talr.checkpoint.export import export
from lit_talr.losses import TALR
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.strategies import end_process
from tests.distributed.cases import chosen, fast_and_slow, torchrun
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import ADAPTERS, fit

FAST = ["zero2:bf16-mixed:lora"]
CASES = [
    *FAST,
    *(f"{strategy}:32-true:full" for strategy in ("zero2", "zero3", "fsdp2")),
    *(f"{strategy}:bf16-mixed:full" for strategy in ("ddp", "zero1", "zero2", "zero3", "zero3-offload", "fsdp2")),
]
CASES += ["zero1:32-true:full", "zero1:bf16-true:full", "ddp:bf16-mixed:lora", "zero1:32-true:lora", "ddp:bf16-mixed:dora"]
CASES += [f"zero2:bf16-mixed:{name}" for name in ADAPTERS if name != "lora"]
pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("out")
    torchrun("tests.distributed.test_export", str(folder), str(out), *chosen(request))
    return out


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_what_is_written_is_what_was_in_memory(folder: Path, out: Path, tmp_path: Path, case: str) -> None:
    run, memory = out / case.replace(":", "_"), load_file(out / f"{case.replace(':', '_')}.safetensors")
    adapter = ADAPTERS.get(case.rsplit(":", 1)[1])
    (checkpoint,) = (run / "checkpoints").iterdir()
    weights = checkpoint_weights(checkpoint)
    buffers = {name: weights.read(name) for name in weights.shapes if name not in memory}  # what an adapter began with
    expected = logits(Backbone(load_model(str(folder / "model"), None, None, 259, None), adapter).model, {**memory, **buffers})
    export(run, tmp_path / "out")
    for path in (run / "export", tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(path)
        assert model.dtype == torch.float32
        torch.testing.assert_close(logits(model, {}), expected, rtol=0, atol=1e-5)
    first, second = (load_file(path / "model.safetensors") for path in (run / "export", tmp_path / "out"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    own = {name: value for name, value in memory.items() if adapter is None or name in weights.shapes}
    assert own and all(torch.equal(weights.read(name).to(value.dtype), value) for name, value in own.items())
    assert not any(".base_layer." in name for name in weights.shapes)
    assert (run / "adapter" / "adapter_model.safetensors").is_file() == (adapter is not None)


@torch.no_grad()
def logits(model: torch.nn.Module, weights: dict[str, Tensor]) -> Tensor:
    named = model.state_dict(keep_vars=True)
    for name, weight in weights.items():
        named[name].copy_(weight)
    return model.eval()(input_ids=torch.arange(200).reshape(4, 50)).logits


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, runs = Path(sys.argv[1]), Path(sys.argv[2])
    for case in sys.argv[3:]:
        strategy, precision, kind = case.split(":")
        run = runs / case.replace(":", "_")
        options = {
            "strategy": STRATEGIES[strategy](),
            "devices": 2,
            "precision": precision,
            "enable_checkpointing": True,
            "callbacks": [HFExport(), WholeCheckpoint()],
            "default_root_dir": str(run),
        }
        adam = partial(torch.optim.AdamW, lr=0.01)
        loss = TALR(scope="step")  # which has a state of its own in the checkpoint
        weights = fit(data, loss, steps=2, adapter=ADAPTERS.get(kind), optimizer=adam, batching={"micro_batch_size": 2}, trainer=options)
        if os.environ["RANK"] == "0":
            save_file({name: weight.contiguous() for name, weight in weights.items()}, f"{run}.safetensors")
    end_process()
