"""Runs seeded fits by the command lines of two checkouts and compares them bitwise: ``python benchmarks/same_numbers.py OLD NEW [NAME ...] --out FOLDER``.

Compared are every scalar in TensorBoard (losses of all steps among them), the exported weights, adapters, responses and ``metrics.json``.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ONE = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
PACKED = ["--data.batching", "{micro_batch_size: null, micro_batch_tokens: 256, packing: true}"]
ADAPTERS = ["-c", "configs/lora.yaml", "--model.lora.r", "2", "--model.lora.alpha", "2", "--model.lora.dropout", "0.1"]
SMALL = ["--data.train_size", "64", "--data.val_size", "16", "--data.test_size", "16", "--trainer.max_epochs", "1"]
READ = """
import sys, json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps({tag: [[event.step, event.value.hex()] for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""


def runs(data: Path) -> dict[str, list[str]]:
    """The words of each fit."""
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(data / f"{split}.jsonl"))]
    model = ["--model.pretrained", str(data / "model"), "--model.tokenizer", str(data / "tokenizer"), "--model.generation.max_new_tokens", "8"]
    sizes = ["--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "4", "--trainer.max_epochs", "2", "--trainer.precision", "32-true"]
    base = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", *files, *model, "--model.optimizer.lr", "1e-2", *sizes]
    found = {name: [*base, "-c", f"configs/loss/{name}.yaml", *ONE] for name in ("talr", "flow", "l2", "asft", "eaft", "rho1", "iw-sft", "permuted")}
    return {
        **found,
        "standard": [*base, "-c", "configs/loss/standard.yaml", *ONE, "-c", "configs/eval/drift.yaml"],
        "talr-step-packed": [*base, "-c", "configs/loss/talr-step.yaml", *ONE, *PACKED],
        "talr-token-bf16": [*base, "-c", "configs/loss/talr-token.yaml", *ONE, "--trainer.precision", "bf16-mixed"],
        "lora-talr": [*base, "-c", "configs/loss/talr.yaml", *ADAPTERS, *ONE],
        "ddp-talr-step": [*base, "-c", "configs/loss/talr-step.yaml", "-c", "configs/strategy/ddp-cpu.yaml"],
        "zero2-l2": [*base, "-c", "configs/loss/l2.yaml", "-c", "configs/strategy/zero2-cpu.yaml"],
        "fsdp2-flow": [*base, "-c", "configs/loss/flow.yaml", "-c", "configs/strategy/fsdp2-cpu.yaml"],
        "resume-talr-step": [*base, "-c", "configs/loss/talr-step.yaml", *ONE, "--model.schedule", "Constant"],
        "lab-standard": ["-c", "configs/experiment/lab_clinic.yaml", *SMALL, *ONE],
    }


def digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def record(tree: Path, name: str, words: list[str], out: Path) -> dict[str, Any]:
    """Runs a fit of one checkout and returns everything that is compared."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run, program = out / name, [sys.executable, "-m", "lit_talr"]
    commands = [["fit", *words, "--run", str(run)]]
    if name.startswith("resume"):
        commands = [["fit", *words, "--trainer.max_epochs", "1", "--run", str(run)], ["fit", *words, "--run", str(run), "--ckpt_path", "last"]]
    if name in ("standard", "talr", "lab-standard"):
        commands.append(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "last"])
    for command in commands:
        subprocess.run([*program, *command], cwd=tree, env=environment, check=True, capture_output=True)
    scalars = subprocess.run([sys.executable, "-c", READ, str(run)], env=environment, check=True, capture_output=True, text=True).stdout
    files = ("export/model.safetensors", "adapter/adapter_model.safetensors", "answers/test.jsonl")
    return {"scalars": json.loads(scalars), "metrics": json.loads((run / "metrics.json").read_text()), **{file: digest(run / file) for file in files}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    code = f"from pathlib import Path; from tests.helpers.fits import write_data; write_data(Path({str(out / 'data')!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=arguments.new, check=True, capture_output=True)
    wanted = {name: words for name, words in runs(out / "data").items() if not arguments.names or name in arguments.names}
    differences = 0
    with ThreadPoolExecutor(2) as pool:
        for name, words in wanted.items():
            sides = [pool.submit(record, tree.resolve(), name, words, out / side) for side, tree in (("old", arguments.old), ("new", arguments.new))]
            old, new = (side.result() for side in sides)
            changed = [part for part in old if old[part] != new[part]]
            differences += bool(changed)
            print(f"{name}: {'bitwise the same' if not changed else 'differs in ' + ', '.join(changed)}", flush=True)
    sys.exit(differences > 0)


if __name__ == "__main__":
    main()
