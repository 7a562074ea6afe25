"""Peak memory of real steps next to `lit-talr estimate`: python -m benchmarks.estimate [--model models/smollm2-135m] [--only NAME]

Each configuration trains three steps through ``Trainer.fit`` in a process of its own, on a CPU. Measured is the growth of the process's resident
memory: its peak (``VmHWM``, set back after the first step) minus its size before the model is made, after a warm-up with a tiny model, so that what
libraries load and keep does not count. That is what the machine has to give. torch's own account would be kept by the same means as the estimate, and
misses what kernels allocate by themselves. Blocks from 64 KiB on are mapped one by one (``M_MMAP_THRESHOLD``), so that a freed tensor leaves at once.

The order of the times is compared with that of the estimated operations by Spearman's coefficient, among the float32 configurations.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer, seed_everything

from benchmarks.prepared import Prepared
from lit_talr.cli.command_line import quiet_libraries
from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoder import Encoded
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.domains.base import DomainDataModule
from lit_talr.estimate.facts import read_facts
from lit_talr.estimate.memory import memory_of, read_model
from lit_talr.losses import KL, L2, TALR
from lit_talr.modeling.adapters import LoRA
from lit_talr.modeling.loading import load_model
from lit_talr.module import DomainSFT
from lit_talr.training.building import Compute
from lit_talr.training.mofo import MoFO
from lit_talr.training.schedules import Constant

M_MMAP_THRESHOLD = -3
MIB = 2**20
LAB = str(Path(__file__).parents[1] / "lit_talr" / "lab" / "base")
AdamW = partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.0, fused=True)


def shape(kind: str, width: int, layers: int, vocab: int, tied: bool = True) -> dict[str, Any]:
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 128), "num_hidden_layers": layers}
    return {"model_type": kind, "hidden_size": width, "intermediate_size": 3 * width, "vocab_size": vocab, "tie_word_embeddings": tied, **heads}


@dataclass(frozen=True)
class Case:
    """One configuration; without an architecture the real model."""

    architecture: dict[str, Any] | None
    rows: int
    length: int
    compute: Compute = Compute()
    loss: Any = TALR
    adapter: Any = None
    optimizer: Any = AdamW
    precision: str = "32-true"
    micro_batches: int = 1
    supervised: float = 0.5


RECOMPUTE = Compute(gradient_checkpointing=True)
TINY = Case(shape("qwen3", 128, 2, 8192), 2, 64)
CASES = {
    "qwen3 14M": Case(shape("qwen3", 256, 8, 16384), 4, 256),
    "qwen3 14M, recomputed": Case(shape("qwen3", 256, 8, 16384), 8, 256, RECOMPUTE),
    "llama 40M, untied, logits not kept": Case(shape("llama", 512, 6, 16384, tied=False), 4, 256, Compute(kept_logits=0)),
    "qwen2 27M, bf16-mixed": Case(shape("qwen2", 512, 6, 16384), 2, 256, precision="bf16-mixed"),
    "gemma3 27M, two micro-batches": Case(shape("gemma3_text", 512, 6, 16384), 2, 256, micro_batches=2),
    "qwen2 27M, L2": Case(shape("qwen2", 512, 6, 16384), 2, 128, loss=partial(L2, TALR(), 1e-3)),
    "qwen2 27M, KL": Case(shape("qwen2", 512, 6, 16384), 2, 256, loss=partial(KL, TALR())),
    "qwen2 27M, MoFO": Case(shape("qwen2", 512, 6, 16384), 1, 128, optimizer=partial(MoFO, lr=1e-6)),
    "SmolLM2 135M": Case(None, 1, 256),
    "SmolLM2 135M, recomputed": Case(None, 2, 384, RECOMPUTE),
    "SmolLM2 135M, LoRA": Case(None, 1, 256, adapter=LoRA()),
}


def objects(case: Case, folder: Path) -> tuple[DomainSFT, DomainDataModule]:
    """The module, and random rows of one length."""
    draw, number = np.random.default_rng(0), case.rows * case.micro_batches
    mask = np.arange(case.length + 1) > case.length * (1 - case.supervised)
    rows = [Encoded(draw.integers(0, 200, case.length + 1), mask, 0, np.zeros_like(mask)) for _ in range(3 * number)]

    module = DomainSFT(case.loss(), case.optimizer, Constant(), pretrained=str(folder), adapter=case.adapter, compute=case.compute)
    return module, Prepared(str(folder), Batching(number, case.rows), rows)


class Peak(Callback):
    """Sets the peak back after the first step, and times the others."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if trainer.global_step and (index + 1) % trainer.accumulate_grad_batches == 0:
            if not self.ends:
                Path("/proc/self/clear_refs").write_text("5")
            self.ends.append(time.perf_counter())


def resident(name: str) -> int:
    """Bytes of the process, ``VmRSS`` or ``VmHWM``."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def train(case: Case, folder: Path) -> list[float]:
    """Three steps; returns the seconds of the last two."""
    seed_everything(0, verbose=False)
    module, data = objects(case, folder)
    peak = Peak()
    off: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: Any = {"max_epochs": 1, "max_steps": 3, "gradient_clip_val": 1.0, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    Trainer(accelerator="cpu", devices=1, precision=case.precision, callbacks=[peak], default_root_dir=str(folder), **options, **off).fit(module, data)
    return np.diff(peak.ends).tolist()


def measure(case: Case, folder: Path, tiny: Path) -> dict[str, float]:
    """Peak and time of a configuration, in this process."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**16)
    train(Case(TINY.architecture, TINY.rows, TINY.length, case.compute, case.loss, case.adapter, case.optimizer, case.precision, case.micro_batches), tiny)
    gc.collect()
    libc.malloc_trim(0)
    start = resident("VmRSS")
    seconds = min(train(case, folder))
    return {"bytes": resident("VmHWM") - start, "seconds": seconds}


def in_child(case: Case, folder: Path, tiny: Path) -> dict[str, float]:
    """The same in a process of its own, which has imported everything."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, json.dumps(measure(case, folder, tiny)).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    found: dict[str, float] = json.loads(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m"), help="a folder with SmolLM2-135M")
    parser.add_argument("--only", help="the configurations whose names have one of these, separated by commas")
    arguments = parser.parse_args()
    chosen = {title: case for title, case in CASES.items() if not arguments.only or any(part in title for part in arguments.only.split(","))}
    if not chosen:
        parser.error(f"--only: no configuration has `{arguments.only}` in its name; there are {'; '.join(CASES)}")
    torch.set_num_threads(1)
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads of a forked process have no OpenMP pool
    quiet_libraries()
    found = []
    print("| configuration | measured, MiB | estimated, MiB | estimated / measured | at | step, s | GFLOP |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        tiny = made(TINY, Path(name, "tiny"))
        for title, case in chosen.items():
            folder = arguments.model if case.architecture is None else made(case, Path(name, title.replace(" ", "-")))
            row = in_child(case, folder, tiny)
            module, data = objects(case, folder)
            trainer = Namespace(devices=1, num_nodes=1, accelerator="cpu", strategy="auto", precision=case.precision)
            facts = read_facts(Namespace(trainer=trainer, model=module, data=data), 1, case.length, case.supervised)
            model = read_model(facts)
            memory = memory_of(facts, model)
            flops, ratio = facts.micro_batches * model.flops / 1e9, memory.peak / row["bytes"]
            found.append({"ratio": ratio, "seconds": row["seconds"], "flops": flops, "single": case.precision == "32-true"})
            cells = f"{row['bytes'] / MIB:,.0f} | {memory.peak / MIB:,.0f} | {ratio:.2f} | {memory.moment} | {row['seconds']:.2f} | {flops:,.0f}"
            print(f"| {title} | {cells} |", flush=True)
    results = pd.DataFrame(found)
    single = results[results.single]
    print(f"\nwithin 10 %: {(results.ratio.sub(1).abs() <= 0.1).sum()} of {len(results)}; worst {results.ratio.min():.2f} and {results.ratio.max():.2f}")
    print(f"order of times and operations (float32, Spearman): {single.seconds.rank().corr(single.flops.rank()):.2f}")


def made(case: Case, folder: Path) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    load_model(None, None, case.architecture, 8192, None).save_pretrained(folder)
    load_tokenizer(LAB).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
