"""Memory and time of reading JSONL rows, against Arrow's own reader.

    for reader in arrow rows examples; do python benchmarks/rows.py $reader --num_rows 200000; done

``rows`` is the table, ``examples`` what ``Records`` makes of it. Each is measured in a process of its own, above what the imports take.
"""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import datasets  # noqa: F401  which `load_rows` imports
import pyarrow.json
from jsonargparse import auto_cli

from lit_talr.data.rows import load_rows
from lit_talr.domains import Records


def write_rows(path: Path, num_rows: int) -> None:
    """Rows of 60 and 30 words from a vocabulary of 5,000."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(5000)]
    with path.open("w") as file:
        for row in range(num_rows):
            prompt, response = (" ".join(draw.choices(words, k=length)) for length in (60, 30))
            file.write(json.dumps({"prompt": f"{row} {prompt}", "response": response}) + "\n")


def peak() -> float:
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(reader: Literal["arrow", "rows", "examples"], num_rows: int = 200_000) -> None:
    """Prints one line.

    Args:
        reader: What reads.
        num_rows: Rows of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, num_rows)
        before, start = peak(), time.perf_counter()
        match reader:
            case "arrow":
                pyarrow.json.read_json(path)
            case "rows":
                load_rows(str(path), "train", ())
            case "examples":
                Records(train=str(path)).examples("train")
        print(f"{reader}: {num_rows:,} rows of {path.stat().st_size / 2**20:.0f} MB, peak +{peak() - before:.0f} MB, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    auto_cli(measure)
