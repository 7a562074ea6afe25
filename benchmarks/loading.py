"""Memory of each of two CPU ranks while a model in many shards is loaded under ZeRO-3 and FSDP2:

python -m benchmarks.loading --model FOLDER

The folder is made if it does not exist: a Llama of 0.75 billion random weights in float32, 3 GB in files of 256 MB. The number reported is the peak resident
memory, pages of mapped files included, minus the memory of the process before loading (the framework's own).
"""

import argparse
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.progress import track

from lit_talr.lab import Clinic
from lit_talr.losses import Standard
from lit_talr.modeling.loading import load_model
from lit_talr.modeling.strategies import DeepSpeedCPUStrategy, FSDP2Strategy
from lit_talr.module import DomainSFT
from lit_talr.training.schedules import Constant
from lit_talr.utils.files import new_folder

TOKENIZER = "lit_talr/lab/base"
LLAMA = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 4, "num_hidden_layers": 14}
STRATEGIES: dict[str, Any] = {
    "zero3": partial(DeepSpeedCPUStrategy, stage=3),
    "fsdp2": FSDP2Strategy,
}


def resident(key: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (at most) of this process, in bytes."""
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class Measured(DomainSFT):
    """Prints the memory that loading the model took, and ends the process."""

    def configure_model(self) -> None:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        super().configure_model()
        print(f"rank {self.trainer.global_rank} took {resident('VmHWM') - before} keeps {resident('VmRSS') - before} base {before}", flush=True)
        self.trainer.strategy.barrier()
        os._exit(0)


def load(strategy: str, model: Path) -> None:
    """Load the model as one of two ranks."""
    optimizer = partial(torch.optim.SGD, lr=0.0)
    module = Measured(Standard(), optimizer=optimizer, schedule=Constant(), pretrained=str(model), tokenizer=TOKENIZER)
    trainer = Trainer(accelerator="cpu", devices=2, strategy=STRATEGIES[strategy](), precision="32-true", max_steps=1, logger=False, enable_checkpointing=False)
    trainer.fit(module, datamodule=Clinic(TOKENIZER))


def make(folder: Path) -> None:
    torch.manual_seed(0)
    model = load_model(None, None, {**LLAMA, "tie_word_embeddings": False}, 32000, None)
    with new_folder(folder) as path:
        model.save_pretrained(path, max_shard_size="256MB")


def main(model: Path) -> None:
    if not model.exists():
        make(model)
    files = sorted(model.glob("*.safetensors"))
    full = sum(file.stat().st_size for file in files)
    print(f"{full / 1e9:.2f} GB in {len(files)} files, the largest of {max(file.stat().st_size for file in files) / 1e6:.0f} MB\n")
    print("| strategy | rank | base | peak of loading beyond it | of a full copy | kept |\n|---|---|---|---|---|---|")
    for strategy in track(STRATEGIES, "Loading", console=Console(stderr=True), transient=True):
        command = [
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.loading"),
            *("--model", str(model), "--as-rank", strategy),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        found = re.findall(r"rank (\d) took (\d+) keeps (-?\d+) base (\d+)", done.stdout)
        if len(found) != 2:
            sys.exit(done.stderr[-3000:])
        for rank, took, keeps, base in sorted(found):
            print(
                f"| {strategy} | {rank} | {int(base) / 1e9:.2f} GB | {int(took) / 1e9:.2f} GB | {int(took) / full:.0%} | {int(keeps) / full:.0%} |", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--as-rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        load(arguments.as_rank, arguments.model)
    else:
        main(arguments.model)
