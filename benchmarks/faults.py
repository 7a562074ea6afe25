"""Fault injection: how often a command survives being killed:

python -m benchmarks.faults --out runs/faults [--kills 20]

Each command is run on the lab's model and Clinic rows, once undisturbed and then again and again, killed outright (SIGKILL, with all its ranks and workers)
at seeded moments of its duration and started again by the same line. It survives if, whenever it is killed, no file of its results is there that differs
from the undisturbed one, and if it ends with the same files, byte for byte where they are results, with no other file left over and each step once in
TensorBoard. Every second kill of a sweep spares its workers. The other faults are those of the tests, which this script runs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.cli.command_line import main as lit_talr

CALLBACKS = [
    {"class_path": "Summary"},
    {"class_path": "TokenProbability", "init_args": {"probe_size": 8}},
    {"class_path": "DomainScore"},
    {"class_path": "HFExport"},
    {"class_path": "WholeCheckpoint", "init_args": {"filename": "last-{step}", "every_n_train_steps": 3}},
]
LAB = (
    *("-c", "configs/experiment/lab_clinic.yaml", "--trainer.callbacks", json.dumps(CALLBACKS), "--trainer.max_epochs", "3"),
    *("--data.train_size", "64", "--data.val_size", "16", "--data.test_size", "16", "--model.generation.max_new_tokens", "16"),
)
ONE = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
ZERO2 = ("-c", "configs/strategy/zero2-cpu.yaml")
SPACE = "rates: [1e-3]\nseeds: [0]\nremedies: {standard: [-c, configs/loss/standard.yaml]}\nalphas: [0.5]\nalphas_of: [standard]\nkeep: false\n"

TESTED = {
    "a checkpoint cut short, both of them": "tests/cli/test_command_line.py -k cut_short",
    "a checkpoint folder that lacks a file, or has an older one": "tests/training/test_faults.py -k newest_whole",
    "SIGKILL inside the writing of a checkpoint": "tests/training/test_kill.py -k KillInCheckpoint",
    "SIGTERM, one process": "tests/training/test_faults.py -k told_to_end",
    "SIGTERM to either of two ranks, DDP and ZeRO-2": "tests/distributed/test_faults.py -k told_to_end",
    "a rank that dies, either of two": "tests/distributed/test_faults.py -k dies",
    "a full disk": "tests/training/test_faults.py -k full_disk",
    "a data worker that dies": "tests/training/test_faults.py -k data_worker",
    "two runs in one folder": "tests/training/test_faults.py -k second_run",
    "a loss that is not finite, stop and skip": "tests/training/test_non_finite.py",
    "the same on two ranks, six strategies": "tests/distributed/test_non_finite.py",
}


@dataclass(frozen=True)
class Case:
    """A command that writes into the folder OUT, and what it is judged by.

    Args:
        name: What the table calls it.
        words: Its words.
        results: Patterns of the files in OUT that are equal byte for byte, and never there but whole.
        begins_as: A folder that OUT is a copy of at the beginning.
        num_ranks: Processes that work in step.
    """

    name: str
    words: tuple[str, ...]
    results: tuple[str, ...]
    begins_as: Path | None = None
    num_ranks: int = 1


def all_cases(out: Path) -> list[Case]:
    """The commands, in an order in which each finds what it reads."""
    auto = ("--run", "OUT", "--ckpt_path", "auto")
    fits = [
        Case(f"fit, {place}, {loss}", ("fit", *LAB, *words, "-c", f"configs/loss/{loss}.yaml", *auto), ("export/*.safetensors",), num_ranks=num_ranks)
        for place, words, num_ranks in (("one process", ONE, 1), ("ZeRO-2 on two ranks", ZERO2, 2))
        for loss in ("standard", "talr-step", "l2")
    ]
    run, wise = out / "0" / "whole", ("--base", "lit_talr/lab/base", "--alpha", "[0.3,0.5]")
    return [
        *fits,
        Case("test", ("test", "-c", "OUT/config.yaml", "--ckpt_path", "last"), ("answers/*",), run),
        Case("export", ("export", "--ckpt", str(run), "--out", "OUT"), ("*.safetensors",)),
        Case(
            "merge",
            ("merge", *wise, "--tuned", str(run / "export"), "--out", "OUT"),
            ("alpha-*/*.safetensors",),
        ),
        Case("sweep", ("sweep", *LAB, *ONE, "--space", str(out / "space.yaml"), "--out", "OUT", "--workers", "2"), ("*/answers/test.jsonl",)),
        Case("report", ("report", str(out / "9" / "whole"), "--out", "OUT/report.html"), ("*.parquet",)),
    ]


def start(case: Case, folder: Path, log: Path) -> list[psutil.Process]:
    """Start processes that run the command, one for each rank; they are forked, so each begins with everything imported."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(case.num_ranks):
        process = os.fork()
        if process:
            processes.append(psutil.Process(process))
            continue
        if case.num_ranks > 1:
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        status = 1
        with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file), contextlib.suppress(BaseException):
            lit_talr([word.replace("OUT", str(folder)) for word in case.words])
            status = 0
        os._exit(status)
    return processes


def kill(processes: Sequence[psutil.Process], spare_workers: bool) -> None:
    for process in processes:
        workers = [] if spare_workers else process.children(recursive=True)
        for one in (process, *workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def ended(processes: Sequence[psutil.Process]) -> bool:
    """Wait for the processes; return whether all of them ended well.

    Raises:
        RuntimeError: If one failed that nobody killed.
    """
    statuses = [os.waitpid(process.pid, 0)[1] for process in processes]
    if any(statuses) and not any(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL for status in statuses):
        raise RuntimeError(f"a command that nobody killed ended with {statuses}")
    return not any(statuses)


def results(case: Case, folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for pattern in case.results for path in folder.glob(pattern) if path.is_file()}


def names(folder: Path) -> set[str]:
    """The files of a folder, without those that each start writes: TensorBoard's, and the options of a resumption."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name and not path.name.startswith("config.resume-")]
    return {str(path.relative_to(folder)) for path in paths}


def steps(folder: Path) -> list[int]:
    board = EventAccumulator(str(folder)).Reload()
    return [event.step for event in board.Scalars("train/loss")] if "train/loss" in board.Tags()["scalars"] else []


def survive(case: Case, out: Path, num_kills: int, seed: int) -> str:
    """Run once without kills, then with them, from the beginning again where a run ends before the last; return a row of the table."""
    whole, log, draw = out / "whole", out / "log.txt", random.Random(seed)
    out.mkdir(parents=True)
    began = time.monotonic()
    fresh(case, whole)
    ended(start(case, whole, log))
    duration, expected = time.monotonic() - began, results(case, whole)
    if not expected:
        raise RuntimeError(f"{case.name} wrote nothing; see {log}")
    kills = num_runs = 0
    faults: list[str] = []
    while kills < num_kills:
        folder, done = out / f"killed-{num_runs}", False
        fresh(case, folder)
        while not done:
            processes = start(case, folder, log)
            if kills < num_kills:
                time.sleep(draw.uniform(0, duration))
                kill(processes, spare_workers=kills % 2 == 1)
            done = ended(processes)
            kills += not done
            faults += [f"{name} is not whole after kill {kills}" for name, text in results(case, folder).items() if expected.get(name) != text]
        faults += [f"{name} is left over or missing in {folder}" for name in sorted(names(whole) ^ names(folder))]
        faults += [f"steps {steps(folder)} in {folder}"] if steps(folder) != steps(whole) else []
        num_runs += 1
    return f"{kills} kills, {num_runs} runs to the end | {'; '.join(faults) if faults else 'survived'}"


def fresh(case: Case, folder: Path) -> None:
    """What the folder of a command holds before its first start."""
    if case.begins_as is not None:
        shutil.copytree(case.begins_as, folder)


def main(arguments: argparse.Namespace) -> bool:
    failed = False
    print("| fault | tried | outcome |\n|---|---|---|", flush=True)
    arguments.out.mkdir(parents=True)
    (arguments.out / "space.yaml").write_text(SPACE)
    for number, case in enumerate(track(all_cases(arguments.out), "Killing", console=Console(stderr=True), transient=True)):
        row = survive(case, arguments.out / str(number), arguments.kills, number)
        failed |= not row.endswith("survived")
        print(f"| SIGKILL at seeded moments, {case.name} | {row} |", flush=True)
    for fault, tests in track(TESTED.items(), "Testing", console=Console(stderr=True), transient=True):
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *tests.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        failed |= done.returncode != 0
        print(f"| {fault} | `{tests}` | {done.stdout.strip().splitlines()[-1].split(' in ')[0]} |", flush=True)
    return not failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    sys.exit(0 if main(parser.parse_args()) else 1)
