"""Growth of time and memory of a training step with width, row length, vocabulary and number of rows: python -m benchmarks.scaling [--out scaling.png]

A step is forward, TALR, backward and AdamW on four rows of a Qwen3 shape whose second half is supervised (width 128, four layers, length 256, vocabulary
8,192); one of the sizes is doubled at a time, the rest stays. The number of rows measures the cost of data of that size: counting and planning it, and
collating a step. Each point runs in its own process; time is the median of five after a warm-up, memory the process's peak beyond its start.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

START = {"width": 128, "length": 256, "vocabulary": 8192, "rows": 4096}
DOUBLED = 4
ROWS = 4


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def median_time(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def step(width: int, length: int, vocabulary: int) -> Callable[[], object]:
    from lit_talr.losses import TALR
    from lit_talr.losses.base import TokenStats
    from lit_talr.modeling.backbone import Backbone
    from lit_talr.modeling.loading import load_model

    heads = {"num_attention_heads": width // 32, "num_key_value_heads": width // 32, "head_dim": 32, "num_hidden_layers": 4}
    shape = {"model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width, "tie_word_embeddings": True, **heads}
    backbone = Backbone(load_model(None, None, shape, vocabulary, None))
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-6, fused=True)
    ids, loss = torch.randint(vocabulary, (ROWS, length)), TALR()
    labels = ids.clone()
    labels[:, : length // 2] = -100
    sequence = torch.arange(ROWS)[:, None].expand(ROWS, length)

    def run() -> None:
        output = backbone(ids, labels)
        stats = TokenStats(output.nll, labels >= 0, sequence)
        (loss(stats, loss.weights(stats)) / (labels >= 0).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def data(rows: int) -> Callable[[], object]:
    from lit_talr.data.batch_plan import Batching, BatchPlan
    from lit_talr.data.encoded import EncodedExamples
    from lit_talr.data.encoder import Encoded

    draw = np.random.default_rng(0)
    lengths = draw.integers(100, 400, rows)
    examples = [Encoded(np.zeros(size, np.int32), np.arange(size) > size // 2, 0, np.zeros(size, bool)) for size in lengths.tolist()]
    encoded = EncodedExamples(examples, 0)
    plan = BatchPlan(encoded.lengths, encoded.num_supervised, Batching(16, ROWS))
    return lambda: [encoded[micro_batch] for micro_batch in plan.micro_batches(3)]


def measure(name: str, size: int) -> tuple[float, float]:
    """Seconds and MiB of one point."""
    import lit_talr.module  # noqa: F401  shared imports belong to no point

    torch.manual_seed(0)
    sizes, before = {**START, name: size}, peak()
    rows = sizes.pop("rows")
    run = data(rows) if name == "rows" else step(**sizes)
    return median_time(run), peak() - before


def plot(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, len(found), figsize=(10, 4), sharex="col")
    for column, (name, points) in zip(axes.T, found.items(), strict=True):
        for axis, place, label in ((column[0], 1, "ms a step"), (column[1], 2, "MiB")):
            axis.loglog([point[0] for point in points], [point[place] * (1e3 if place == 1 else 1) for point in points], "o-", markersize=3)
            axis.set_ylabel(label)
            low, high = axis.get_ylim()
            if high < 4 * low:  # else noise would fill the axis
                axis.set_ylim(low / 2, high * 2)
            axis.set_xticks([point[0] for point in points], [f"{point[0]:,}" for point in points], fontsize=8)
            axis.minorticks_off()
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
        column[1].set_xlabel(name)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a picture")
    parser.add_argument("--point", nargs=2, metavar=("NAME", "SIZE"), help="measure this one in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(arguments.point[0], int(arguments.point[1]))))
        return
    found: dict[str, list[tuple[int, float, float]]] = {}
    print("| what | size | step, ms | of the size before | MiB | of the size before |\n|---|---|---|---|---|---|")
    for name, first in START.items():
        for size in (first * (4 if name == "rows" else 2) ** power for power in range(DOUBLED)):
            words = [sys.executable, "-m", "benchmarks.scaling", "--point", name, str(size)]
            seconds, memory = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
            points = found.setdefault(name, [])
            ratios = [f"{seconds / points[-1][1]:.2f}", f"{memory / points[-1][2]:.2f}"] if points else ["", ""]
            points.append((size, seconds, memory))
            print(f"| {name} | {size:,} | {1e3 * seconds:.1f} | {ratios[0]} | {memory:,.0f} | {ratios[1]} |", flush=True)
    if arguments.out:
        plot(found, arguments.out)


if __name__ == "__main__":
    main()
