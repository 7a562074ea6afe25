"""Memory and time of ``lit-talr merge`` next to the usual way, on random bf16 weights: python -m benchmarks.merge [--shards 8] [--shard-mb 256]

Each way runs in its own process. Memory is the largest resident memory that Linux reports (pages of mapped files count too), minus that of a process
that only imports. The usual way loads both models whole, adds them and saves.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lit_talr.checkpoint.merge import merge
from lit_talr.utils.files import write_json

WAYS = ("import", "lit-talr merge", "whole models")


def write_model(folder: Path, shards: int, shard_mb: int, seed: int) -> None:
    """Write equal shards, each with one tensor of a third of its size (like an embedding) and eight smaller ones."""
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "qwen3", "tie_word_embeddings": True})
    generator, weight_map = torch.Generator().manual_seed(seed), {}
    elements = shard_mb * 2**20 // 2
    for shard in range(shards):
        sizes = {"large": elements // 3, **{f"small.{number}": elements // 12 for number in range(8)}}
        state = {f"{shard}.{name}": torch.randn(size, generator=generator).bfloat16() for name, size in sizes.items()}
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        save_file(state, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(state, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": shards * elements * 2}, "weight_map": weight_map})


def whole_models(base: Path, tuned: Path, out: Path) -> None:
    states = [{name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()} for folder in (base, tuned)]
    out.mkdir()
    save_file({name: (0.7 * tensor.float() + 0.3 * states[1][name].float()).bfloat16() for name, tensor in states[0].items()}, out / "model.safetensors")


def child(way: str, folder: Path) -> None:
    began = time.perf_counter()
    if way == "lit-talr merge":
        merge(folder / "out", str(folder / "tuned"), str(folder / "base"), 0.3)
    elif way == "whole models":
        whole_models(folder / "base", folder / "tuned", folder / "out")
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())  # getrusage would start from the parent's
    print(json.dumps({"seconds": seconds, "peak_mb": int(status["VmHWM"].split()[0]) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--shard-mb", type=int, default=256)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, model in enumerate(("base", "tuned")):
            write_model(folder / model, arguments.shards, arguments.shard_mb, seed)
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.merge", "--child", way, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found[way] = json.loads(done.stdout.splitlines()[-1])
            shutil.rmtree(folder / "out", ignore_errors=True)
        print("| way | seconds | peak beyond the import, MiB | of the largest shard |\n|---|---|---|---|")
        for way in WAYS[1:]:
            beyond = found[way]["peak_mb"] - found["import"]["peak_mb"]
            print(f"| {way} | {found[way]['seconds']:.1f} | {beyond:,.0f} | {beyond / arguments.shard_mb:.2f} x |")


if __name__ == "__main__":
    main()
