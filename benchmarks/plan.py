"""Time and memory of a batch plan: python -m benchmarks.plan [--examples 10000000] [--ranks 64]

For each way to lay out a step: seconds to make the plan (its order, and the number of micro-batches that the fullest step of an epoch needs), seconds to
list one rank's micro-batches of an epoch (which training spreads over its steps), and the process's peak memory beyond that of the lengths. Each runs in its
own process.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from lit_talr.data.batch_plan import Batching, BatchPlan

LAYOUTS = {
    "8 examples": {"micro_batch_size": 8},
    "8,192 tokens with padding": {"micro_batch_tokens": 8192},
    "8,192 tokens, packed": {"micro_batch_tokens": 8192, "packing": True},
}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(layout: str, examples: int, ranks: int, batch_size: int) -> tuple[float, float, float]:
    """Seconds to plan, seconds to list the micro-batches, MiB."""
    draw = np.random.default_rng(0)
    lengths = np.minimum(draw.lognormal(6.3, 0.8, examples).astype(np.int64) + 8, 4096)
    supervised = np.maximum(lengths // 4, 1)
    before, start = peak(), time.perf_counter()
    plan = BatchPlan(lengths, supervised, Batching(batch_size=batch_size, **LAYOUTS[layout]), world_size=ranks, rank=1)  # type: ignore[arg-type]
    made = time.perf_counter()
    number = sum(1 for _ in plan)
    assert number == len(plan)
    return made - start, time.perf_counter() - made, peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1024, help="examples of a step, over all ranks")
    parser.add_argument("--layout", choices=LAYOUTS, help="measure this one in this process, and print JSON")
    arguments = parser.parse_args()
    sizes = arguments.examples, arguments.ranks, arguments.batch_size
    if arguments.layout:
        print(json.dumps(measure(arguments.layout, *sizes)))
        return
    print("| micro-batches of | plan, s | dealing an epoch, s | memory, MiB |\n|---|---|---|---|")
    for layout in LAYOUTS:
        words = [f"--{name}={size}" for name, size in zip(("examples", "ranks", "batch-size"), sizes, strict=True)]
        output = subprocess.run([sys.executable, "-m", "benchmarks.plan", f"--layout={layout}", *words], check=True, stdout=subprocess.PIPE, text=True).stdout
        planned, listed, memory = json.loads(output)
        print(f"| {layout} | {planned:.1f} | {listed:.1f} | {memory:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
