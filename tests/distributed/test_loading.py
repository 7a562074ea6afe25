"""Every family, tied and untied, in one file and in several, is loaded right where no rank holds the whole. Torchrun runs this file too."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file, save_file

from lit_talr.losses import Standard
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.strategies import end_process
from lit_talr.module import DomainSFT
from tests.distributed.cases import chosen, torchrun
from tests.distributed.worker import STRATEGIES
from tests.helpers.fits import fit, write_data
from tests.helpers.models import ARCHITECTURES

FAMILIES = {**ARCHITECTURES, "qwen3-untied": {**ARCHITECTURES["qwen3"], "tie_word_embeddings": False}}
CASES = [f"{strategy}:{family}" for strategy in ("zero3", "fsdp2") for family in FAMILIES]
CASES += ["zero2:qwen3:bf16-mixed", "zero3:qwen3:bf16-mixed", "zero3:gemma3:bf16-mixed", "fsdp2:qwen3:bf16-true", "zero3:qwen3:bf16-true"]
pytestmark = [pytest.mark.ranks, pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("families")
    for number, (family, architecture) in enumerate(FAMILIES.items()):
        write_data(path / family)
        for file in (path / family / "model").iterdir():
            file.unlink()
        torch.manual_seed(number)
        load_model(None, None, architecture, 259, None).save_pretrained(path / family / "model", max_shard_size="10KB" if number % 2 else "1GB")
    assert len(list((path / "gemma3" / "model").glob("*.safetensors"))) + len(list((path / "qwen3" / "model").glob("*.safetensors"))) > 3
    return path


@pytest.fixture(scope="module")
def out(folders: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("loaded")
    torchrun("tests.distributed.test_loading", str(folders), str(out), *chosen(request))
    return out


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_the_files(folders: Path, out: Path, case: str) -> None:
    loaded = load_file(out / f"{case.replace(':', '_')}.safetensors")
    expected = dict(load_model(str(folders / case.split(":")[1] / "model"), None, None, 0, None).named_parameters())
    assert loaded.keys() == expected.keys()
    for name, weight in expected.items():
        rounded = "bf16-true" in case or ("bf16-mixed" in case and ("vision" in name or "projector" in name))  # what is not trained has no master
        assert torch.equal(loaded[name], weight.bfloat16() if rounded else weight), name


class Exact(Callback):
    """Buffers are what one process has, where weights are bfloat16 too: of a rounded rotary frequency far positions are others."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        buffers = dict(pl_module.backbone.model.named_buffers())
        expected = dict(load_model(pl_module.pretrained, None, None, 0, None, torch.float32).named_buffers())
        assert buffers.keys() == expected.keys()
        for name, value in expected.items():
            assert "inv_freq" not in name or value.dtype == torch.float32
            torch.testing.assert_close(buffers[name].float(), value.float(), rtol=0 if "inv_freq" in name else 0.004, atol=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[3:]:
        strategy, family, *precision = case.split(":")
        options = {"strategy": STRATEGIES[strategy](), "devices": 2, "precision": precision[0] if precision else "32-true", "callbacks": [Exact()]}
        half: Any = partial(DomainSFT, bf16_weights=True)
        sgd = partial(torch.optim.SGD, lr=0.0)
        weights = fit(Path(sys.argv[1], family), Standard(), steps=1, optimizer=sgd, trainer=options, module_class=half)
        if os.environ["RANK"] == "0":
            save_file({name: weight.contiguous() for name, weight in weights.items()}, Path(sys.argv[2], f"{case.replace(':', '_')}.safetensors"))
    end_process()
