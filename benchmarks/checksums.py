"""Cost of the checksums of checkpoints, next to writing the same bytes without them: python -m benchmarks.checksums [--megabytes 500] [--rounds 9]

A file is written as one process and DDP write it, a folder of four files as DeepSpeed's ranks do, here by one process. Both are random float32 weights with
AdamW's two moments, and go to the disk (fsync), as in training. With and without take turns in every round, and the table has the medians; *more* is the
median of each round's ratio. Comparing is what a resume adds before it loads, from the page cache.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from lit_talr.checkpoint.find import why_not_whole
from lit_talr.checkpoint.seal import save_sealed
from lit_talr.checkpoint.whole import remove
from lit_talr.utils.files import synchronise
from lit_talr.utils.manifest import write_manifest

NUM_FILES = 4


def make_content(num_bytes: int) -> dict[str, Any]:
    """Weights and optimizer state, in tensors of 16 MB and some small ones."""
    count = max(1, num_bytes // 2**24)
    return {f"{kind}.{number}": torch.randn(2**22 if number else 2**10) for number in range(count // 3 + 1) for kind in ("weight", "exp_avg", "exp_avg_sq")}


def write_file(content: dict[str, Any], path: Path, checked: bool) -> None:
    if checked:
        save_sealed(content, path)
    else:
        torch.save(content, path)
    synchronise(path)


def write_folder(content: dict[str, Any], path: Path, checked: bool) -> None:
    (path / "checkpoint").mkdir(parents=True)
    for rank in range(NUM_FILES):
        part = {name: value for number, (name, value) in enumerate(content.items()) if number % NUM_FILES == rank}
        torch.save(part, path / "checkpoint" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    if checked:
        write_manifest(path)
    synchronise(path)


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(write: Callable[[dict[str, Any], Path, bool], None], content: dict[str, Any], folder: Path, rounds: int, name: str) -> str:
    """A row of the table."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    comparing = []
    for number in track(range(rounds + 1), name, console=Console(stderr=True), transient=True):
        for checked in (False, True) if number % 2 else (True, False):
            path = folder / f"{checked}.ckpt"
            taken = timed(lambda path=path, checked=checked: write(content, path, checked))  # type: ignore[misc]
            if checked:
                comparing.append(timed(lambda path=path: why_not_whole(path)))  # type: ignore[misc]
                assert why_not_whole(path) is None
            remove(path)
            if number:  # the first round warms up
                seconds[checked].append(taken)
    more = statistics.median(checked / plain for plain, checked in zip(seconds[False], seconds[True], strict=True)) - 1
    plain, checked = (statistics.median(seconds[key]) for key in (False, True))
    return f"| {name} | {plain:.2f} | {checked:.2f} | {more:+.1%} | {statistics.median(comparing):.2f} |"


def main(megabytes: int, rounds: int, out: Path | None) -> None:
    content = make_content(megabytes * 10**6)
    size = sum(value.nbytes for value in content.values()) / 1e6
    folder = Path(tempfile.mkdtemp(dir=out))
    print(f"| {size:.0f} MB, {rounds} rounds | without, s | with, s | more | comparing, s |\n|---|---|---|---|---|")
    try:
        for name, write in (("a file", write_file), (f"a folder of {NUM_FILES} files", write_folder)):
            print(measure(write, content, folder, rounds, name), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="Folder on the disk that is measured; the system's for temporary files by default.")
    arguments = parser.parse_args()
    main(arguments.megabytes, arguments.rounds, arguments.out)
