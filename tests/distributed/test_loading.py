"""Every family, tied and untied, in one file and in several, is loaded right where no rank holds the whole. Torchrun runs this file too."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_talr.backbone import load_model
from lit_talr.losses import Standard
from tests.distributed.cases import chosen, fast_and_slow
from tests.distributed.test_two_ranks import torchrun
from tests.distributed.worker import STRATEGIES
from tests.fits import fit, write_data
from tests.models import ARCHITECTURES

FAMILIES = {**ARCHITECTURES, "qwen3-untied": {**ARCHITECTURES["qwen3"], "tie_word_embeddings": False}}
CASES = [f"{strategy}:{family}" for strategy in ("zero3", "fsdp2") for family in FAMILIES]
FAST = ["zero3:qwen3", "zero3:qwen3-untied", "zero3:gemma3", "fsdp2:qwen3", "fsdp2:qwen3-untied", "fsdp2:gemma3"]
pytestmark = pytest.mark.ranks


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
    done = torchrun("-m", "tests.distributed.test_loading", str(folders), str(out), *chosen(request))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return out


@pytest.mark.parametrize("case", fast_and_slow(CASES, FAST))
def test_the_weights_are_those_of_the_files(folders: Path, out: Path, case: str) -> None:
    loaded = load_file(out / f"{case.replace(':', '_')}.safetensors")
    expected = dict(load_model(str(folders / case.split(":")[1] / "model"), None, None, 0, None).named_parameters())
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in expected.items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[3:]:
        strategy, family = case.split(":")
        trainer = {"strategy": STRATEGIES[strategy](), "devices": 2, "precision": "32-true"}
        weights = fit(Path(sys.argv[1], family), Standard(), steps=1, optimizer=partial(torch.optim.SGD, lr=0.0), trainer=trainer)
        if os.environ["RANK"] == "0":
            save_file({name: weight.contiguous() for name, weight in weights.items()}, Path(sys.argv[2], f"{case.replace(':', '_')}.safetensors"))
