"""Fault injection: how often a run survives being killed:

python -m benchmarks.faults --train FILE --test FILE --out runs/faults [--kills 20]

For one process and for ZeRO-2 on two CPU ranks, and for each of three losses, a small run on MedCalc rows is killed outright (SIGKILL, all its ranks) at
seeded moments, from its first second on, and resumed with ``--ckpt_path last`` each time. It survives if its final weights equal, bit by bit, those of a
run that was never killed, and TensorBoard shows each step once. The other faults are those of the tests, which this script runs.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_talr.cli.command_line import main as lit_talr

LOSSES = ("standard", "talr-step", "l2")
PLACES = {"one process": ("--trainer.accelerator", "cpu", "--trainer.devices", "1"), "ZeRO-2, two ranks": ("-c", "configs/strategy/zero2-cpu.yaml")}
STEPS = 60
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


def start(words: Sequence[str], log: Path, num_ranks: int) -> list[int]:
    """Start processes that run the command, one for each rank; they are forked, so each begins with everything imported."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(num_ranks):
        process = os.fork()
        if process:
            processes.append(process)
            continue
        if num_ranks > 1:
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        status = 1
        with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file), contextlib.suppress(BaseException):
            lit_talr(words)
            status = 0
        os._exit(status)
    return processes


def ended(processes: Sequence[int]) -> bool:
    """Wait for the processes; return whether all of them ended well.

    Raises:
        RuntimeError: If one did not.
    """
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    if any(statuses) and not all(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL for status in statuses):
        raise RuntimeError(f"a run that nobody killed ended with {statuses}")
    return not any(statuses)


def survive(words: Sequence[str], out: Path, num_ranks: int, num_kills: int, longest: float, seed: int) -> str:
    """Run once without and once with kills; return a row of the table."""
    out.mkdir(parents=True)
    if not ended(start([*words, "--run", str(out / "whole")], out / "log.txt", num_ranks)):
        raise RuntimeError(f"see {out / 'log.txt'}")
    draw, killed = random.Random(seed), out / "killed"
    kills = resumed_from_start = 0
    while True:
        has_checkpoint = any((killed / "checkpoints").glob("[!.]*.ckpt"))
        if not has_checkpoint and (killed / "config.yaml").exists():  # killed before the first one: nothing to resume from
            resumed_from_start += 1
            killed.rename(out / f"without-checkpoint-{resumed_from_start}")
        processes = start([*words, "--run", str(killed), *(["--ckpt_path", "last"] if has_checkpoint else [])], out / "log.txt", num_ranks)
        if kills < num_kills:
            time.sleep(draw.uniform(0.1, longest))
            for process in processes:
                os.kill(process, signal.SIGKILL)
            kills += 1
        if ended(processes):
            break
    same = [(folder / "export" / "model.safetensors").read_bytes() for folder in (out / "whole", killed)]
    steps = [event.step for event in EventAccumulator(str(killed)).Reload().Scalars("train/loss")]
    whole = same[0] == same[1] and steps == list(range(STEPS))
    verdict = f"LOST: same weights {same[0] == same[1]}, {steps}" if not whole else "survived" if kills == num_kills else "TOO FEW: it ended; shorten --longest"
    return f"{kills} kills, {resumed_from_start} of them before the first checkpoint | {verdict}"


def main(arguments: argparse.Namespace) -> bool:
    failed = False
    print("| fault | tried | outcome |\n|---|---|---|", flush=True)
    shared = [
        *("fit", "-c", "configs/base.yaml", "-c", "configs/model/tiny.yaml", "-c", "configs/data/medcalc.yaml", "--data.target", "label"),
        *("--model.tokenizer", "lit_talr/lab/base", "--data.train", str(arguments.train), "--data.test", str(arguments.test)),
        *("--data.encoding.max_length", "256", "--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "2"),
        *("--trainer.max_steps", str(STEPS), "--trainer.precision", "32-true"),
        *("--trainer.callbacks+", '{"class_path": "WholeCheckpoint", "init_args": {"every_n_train_steps": 3}}'),
    ]
    cases = [(place, loss) for place in PLACES for loss in LOSSES]
    for number, (place, loss) in enumerate(track(cases, "Killing", console=Console(stderr=True), transient=True)):
        num_ranks = 2 if "two" in place else 1
        words = [*shared, "-c", f"configs/loss/{loss}.yaml", *PLACES[place]]
        row = survive(words, arguments.out / f"{number}-{loss}", num_ranks, arguments.kills, arguments.longest * num_ranks, number)
        failed |= not row.endswith("survived")
        print(f"| SIGKILL at seeded moments, {place}, {loss} | {row} |", flush=True)
    for fault, tests in track(TESTED.items(), "Testing", console=Console(stderr=True), transient=True):
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *tests.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        failed |= done.returncode != 0
        print(f"| {fault} | `{tests}` | {done.stdout.strip().splitlines()[-1].split(' in ')[0]} |", flush=True)
    return not failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=5.0, help="Seconds that a rank is left alone at most.")
    sys.exit(0 if main(parser.parse_args()) else 1)
