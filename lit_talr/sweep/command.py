"""``lit-talr sweep``: what is asked for, the workers, and what a person sees of them."""

import argparse
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lit_talr.sweep import guide
from lit_talr.sweep.points import Point, Resolve, mentions, points
from lit_talr.sweep.runs import Failed, Runs, Stopped
from lit_talr.sweep.space import BASE, WISE, Space, check_words, read_space, to_float
from lit_talr.utils.files import read_json, write_json
from lit_talr.utils.locks import alone

POLL = 2.0
"""Seconds between looks at what other workers do, where nothing is left to begin."""
DESCRIPTION = """Rates x remedies x seeds: each trial is a `lit-talr fit` and a `lit-talr test`. All words that are not listed below go to each of them as they
are: -c FILE, --key value. The same command again goes on where it was: it skips what is done, resumes what has a checkpoint and tries again what failed.
Started several times, on several machines, over one folder and storage, it shares the trials out. docs/sweep.md says how a space is written."""


class Parser(argparse.ArgumentParser):
    """Answers with one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@dataclass
class Sweep:
    """What was asked for."""

    space: Space
    common: list[str]
    out: Path
    workers: int
    storage: str | None
    budget: float | None
    points: list[Point]
    general: bool  # whether every point scores general abilities


def sweep(words: Sequence[str], resolve: Resolve) -> None:
    """Run a sweep.

    Args:
        words: Of the command line, without ``sweep``.
        resolve: Finds the files that are named with ``-c``, among those shipped too.

    Raises:
        ValueError: For bad input, and, when all else is done, for points that failed.
    """
    parser = Parser(prog="lit-talr sweep", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--space", required=True, metavar="FILE", help="What is swept over, in YAML.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="For the runs, one folder each; several machines share it.")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Points that run at once on this machine; 1 unless given.")
    parser.add_argument("--storage", metavar="URL", help="Optuna's storage; a journal file in the folder unless given.")
    parser.add_argument("--budget", metavar="general_drop=0.02", help="Find the best setting whose general score drops by no more, by validation, and test it.")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="Print every command, run nothing and write nothing.")
    given, common = parser.parse_known_args(list(words))
    check_words(common, "sweep")
    if given.workers < 1:
        raise ValueError(f"`--workers` must be at least 1, got {given.workers}.")
    budget = None if given.budget is None else read_budget(given.budget)
    (_, space_file) = resolve(["-c", given.space])
    space = read_space(Path(space_file))
    extra = [] if budget is None else ["--trainer.callbacks+=GeneralBudget", f"--trainer.callbacks.general_drop={budget:g}"]
    found = points(space, common, extra, given.out, resolve)
    alike = {(point.variant, point.remedy): point for point in found if point.alpha is None}  # but for rates and seeds
    general = all(any(mentions(resolve(point.commands[0]), name) for name in ("GeneralScore", "LMEval")) for point in alike.values())
    if budget is not None and not general:
        raise ValueError("`--budget` needs the general score of every trial; give a configuration with one, such as -c configs/eval/skills.yaml.")
    asked = Sweep(space, common, given.out, given.workers, given.storage, budget, found, general)
    if given.dry_run:
        show(asked)
    elif budget is None:
        run(asked, found, tested=True)
    else:
        run_guide(asked, budget)


def read_budget(text: str) -> float:
    name, _, value = text.partition("=")
    if name != "general_drop" or not 0 <= to_float(value) <= 1:
        raise ValueError(f"`--budget` must be general_drop=NUMBER with a number in [0, 1], such as general_drop=0.02, got {text!r}.")
    return float(value)


def show(asked: Sweep) -> None:
    """Every command, as it can be typed."""
    for point in asked.points:
        if asked.budget is None or point.remedy not in (BASE, WISE):
            lines = point.lines() if asked.budget is None else point.lines()[:1]
            print("\n".join([f"# {point.name}", *lines]))
    trials = sum(point.remedy not in (BASE, WISE) for point in asked.points)
    wise = sum(point.remedy == WISE for point in asked.points)
    after = "" if asked.budget is None else "; of these the best within the budget is tested then, and its starting model"
    others = f", {len(asked.points) - trials - wise} starting model(s), {wise} point(s) of Wise-FT" if asked.budget is None else after
    print(f"{trials} trial(s){others}. Nothing was run.")


def run(asked: Sweep, chosen: Sequence[Point], tested: bool) -> tuple[Runs, dict[str, str]]:
    """Run points until all are done or have failed, whoever runs them; gives those that failed, and why.

    Raises:
        ValueError: If any failed, where they are tested.
    """
    from lit_talr.sweep.queue import Queue  # Optuna takes half a second, which other commands need not wait

    by_name = {point.name: point for point in chosen}
    runs = Runs(asked.out, by_name, tested, asked.space.keep, asked.general or not tested, threads=max(1, (os.cpu_count() or 1) // asked.workers))
    runs.check()
    study = start_record(asked)
    queue = Queue(asked.out, asked.storage, study if tested else f"{study}-guide", 1 + runs.general)
    runs.general = queue.objectives == 2
    queue.add([point.name for point in chosen if point.of is None or runs.finished(point.of)], runs.finished)
    Workers(asked, runs, queue).work()
    _, failed = queue.counts(list(by_name))
    if failed and tested:
        raise ValueError(f"{len(failed)} of {len(chosen)} point(s) failed: {', '.join(failed)}. The same command tries them again.")
    return runs, failed


def start_record(asked: Sweep) -> str:
    """Write ``sweep.json`` and give the name of the study, which whoever comes first makes up."""
    file = asked.out / "sweep.json"
    with alone(asked.out / ".locks" / "record"):
        study = read_json(file).get("study") or f"lit_talr-{secrets.token_hex(4)}"
        write_json(file, {"space": asked.space.raw, "words": asked.common, "failed": read_json(file).get("failed", {}), "study": study})
    return study


class Workers:
    """Threads that run points, each its commands as processes, and the lines that tell of them."""

    def __init__(self, asked: Sweep, runs: Runs, queue: Any) -> None:
        self.asked, self.runs, self.queue, self.names = asked, runs, queue, list(runs.points)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), console=Console(soft_wrap=True), transient=True
        )
        self.bar = self.progress.add_task("", total=len(self.names))
        self.running: list[str] = []
        self.signals: list[int] = []

    def work(self) -> None:
        """Until all is done; on SIGINT or SIGTERM the commands are told to end, and waited for, on the second one killed."""
        before = {number: signal.signal(number, lambda number, _: self.signals.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.progress, ThreadPoolExecutor(self.asked.workers) as pool:
                self.update()
                self.watch([pool.submit(self.worker) for _ in range(self.asked.workers)])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.signals:
            print("Stopped; the same command goes on from here.", file=sys.stderr)
            sys.exit(128 + self.signals[0])

    def watch(self, workers: Sequence[Future[None]]) -> None:
        heard = 0
        while not all(worker.done() for worker in workers):
            if heard < len(self.signals) or any(worker.done() and worker.exception() for worker in workers):
                self.runs.stop(hard=len(self.signals) > 1)
                heard = len(self.signals)
            time.sleep(0.1)
        for worker in workers:
            worker.result()

    def worker(self) -> None:
        while not self.runs.stopping:
            taken = self.queue.take(self.names)
            if taken is not None:
                self.one(taken)
            elif self.queue.is_busy(self.names):  # elsewhere, which may end without its work done, or make more
                deadline = time.monotonic() + POLL
                while time.monotonic() < deadline and not self.runs.stopping:
                    time.sleep(0.05)
            else:
                return

    def one(self, taken: Any) -> None:
        """Run a point and say what became of it."""
        began = time.monotonic()
        self.running.append(taken.name)
        self.update()
        try:
            values = self.runs.run(taken.name, taken.lock)
            self.queue.done(taken, values, self.runs.following(taken.name), self.runs.finished)
            self.say(taken.name, time.monotonic() - began)
        except Stopped:
            self.queue.put_back(taken)
        except (Failed, OSError) as error:
            self.queue.failed(taken, str(error))
            self.progress.console.print(f"{taken.name}  failed: {error}", markup=False, highlight=False)
        finally:
            self.running.remove(taken.name)
        self.update()

    def say(self, name: str, seconds: float) -> None:
        found = self.runs.metrics(name, "test" if self.runs.tested else "fit")
        keys = ("test/score", "general/mean") if self.runs.tested else ("val/score", "general/drop")
        numbers = "".join(f"  {key} {found[key]:.3f}" for key in keys if key in found)
        self.progress.console.print(f"{name}{numbers}  {seconds:.0f} s", markup=False, highlight=False)

    def update(self) -> None:
        """The line of progress, and ``failed`` of ``sweep.json``; what other processes do is counted."""
        file = self.asked.out / "sweep.json"
        with alone(self.asked.out / ".locks" / "record"):
            done, failed = self.queue.counts(self.names)
            record = read_json(file)
            others = {name: why for name, why in record["failed"].items() if name not in self.names}
            if record["failed"] != {**others, **failed}:
                write_json(file, {**record, "failed": {**others, **failed}})
        given_up = sum(point.of in failed for point in self.runs.points.values())
        left = len(self.names) - len(done) - len(failed) - given_up
        running = ", ".join(self.running)
        self.progress.update(self.bar, completed=len(done), description=f"{len(done)} done, {len(failed)} failed, {left} left  {running}")


def run_guide(asked: Sweep, budget: float) -> None:
    """Fit all, choose by validation, test what was chosen.

    Raises:
        ValueError: For trials that failed, when all else is done.
    """
    if asked.space.alphas:
        print("`--budget` chooses by validation, and points of Wise-FT have none: `alphas` is left aside.")
    runs, failed = run(asked, [point for point in asked.points if point.remedy not in (BASE, WISE)], tested=False)
    found = guide.settings(runs)
    chosen, closest = guide.choose(found, budget)
    record = {"budget": {"general_drop": budget}, "rule": guide.RULE, "settings": found, "failed": failed, "chosen": chosen, "closest": closest}
    write_json(asked.out / "guide.json", record)
    if chosen is not None:
        tested, _ = run(asked, [point for point in asked.points if point.name in chosen["trials"] or point.name == base_of(asked, chosen)], tested=True)
        record["test"] = test = guide.result(tested, chosen, budget)
        write_json(asked.out / "guide.json", record)
        print(f"Chosen: {guide.named(chosen)}, val/score {chosen['val/score']:.3f} at a general/drop of {chosen['general/drop']:.4f} ({guide.RULE}).")
        print(
            f"On test: test/score {test['test/score']:.3f}, general/drop {test['general/drop']:.4f}, P(drop <= {budget:g}) = {test['P(drop <= budget)']:.3f} "
            f"by a paired bootstrap over items ({guide.RESAMPLES:,} resamples)."
        )
    elif closest is not None:
        print(
            f"No setting stays within a general/drop of {budget:g}; the closest is {guide.named(closest)} with {closest['general/drop']:.4f}. None was tested."
        )
    if failed:
        raise ValueError(f"{len(failed)} trial(s) failed, and their settings were left out: {', '.join(failed)}. The same command tries them again.")


def base_of(asked: Sweep, chosen: dict[str, Any]) -> str:
    return next(point.base for point in asked.points if point.name in chosen["trials"])
