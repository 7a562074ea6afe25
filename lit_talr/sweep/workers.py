"""The workers of a sweep, and the lines in which they report."""

import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lit_talr.sweep.identity import code_key
from lit_talr.sweep.points import Point
from lit_talr.sweep.processes import Failed, Processes, Stopped
from lit_talr.sweep.runs import Runs
from lit_talr.sweep.space import Space
from lit_talr.utils.files import read_json, write_json
from lit_talr.utils.locks import alone

POLL = 2.0
"""Seconds between looks at other workers, where nothing is left to start."""


@dataclass
class Plan:
    """The options of a sweep."""

    space: Space
    common: list[str]
    out: Path
    workers: int
    storage: str | None
    budget: float | None
    points: list[Point]
    general: bool  # whether every point scores general abilities


def run_points(plan: Plan, points: Sequence[Point], tested: bool) -> tuple[Runs, dict[str, str]]:
    """Run points until all are done or have failed, here or in other processes; gives the reasons of those that failed.

    Raises:
        ValueError: If any failed, where they are tested.
    """
    from lit_talr.sweep.queue import Queue  # Optuna takes half a second, which other commands need not wait

    processes = Processes(threads=max(1, (os.cpu_count() or 1) // plan.workers))
    runs = Runs(plan.out, {point.name: point for point in points}, tested, plan.space.keep, plan.general or not tested, processes, code_key())
    runs.check_folders()
    study = start_record(plan)
    queue = Queue(plan.out, plan.storage, study if tested else f"{study}-guide", 1 + runs.general)
    runs.general = queue.objectives == 2
    queue.add([point.name for point in points if point.of is None or runs.is_finished(point.of)], runs.is_finished)
    Workers(plan, runs, queue).run()
    _, failed = queue.outcomes(list(runs.points))
    if failed and tested:
        raise ValueError(f"{len(failed)} of {len(points)} point(s) failed: {', '.join(failed)}. The same command tries them again.")
    return runs, failed


def start_record(plan: Plan) -> str:
    """Write ``sweep.json`` and give the name of the study, which the first process makes up."""
    file = plan.out / "sweep.json"
    with alone(plan.out / ".locks" / "record"):
        record = read_json(file)
        study = record.get("study") or f"lit_talr-{secrets.token_hex(4)}"
        write_json(file, {"space": plan.space.raw, "words": plan.common, "failed": record.get("failed", {}), "study": study})
    return study


class Workers:
    """Threads that run points and print a line for each."""

    def __init__(self, plan: Plan, runs: Runs, queue: Any) -> None:
        self.plan, self.runs, self.queue, self.names = plan, runs, queue, list(runs.points)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(soft_wrap=True), transient=True)
        self.bar = self.progress.add_task("", total=len(self.names))
        self.running: list[str] = []
        self.signals: list[int] = []

    def run(self) -> None:
        """Run until all is done; the first SIGINT or SIGTERM lets the commands end, the second kills them."""
        handlers = {number: signal.signal(number, self.handle_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.progress, ThreadPoolExecutor(self.plan.workers) as pool:
                self.show_progress()
                workers = [pool.submit(self.work) for _ in range(self.plan.workers)]
                if any(worker.exception() for worker in as_completed(workers)):
                    self.runs.processes.stop()
            for worker in workers:
                worker.result()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.signals:
            print("Stopped; the same command continues from here.", file=sys.stderr)
            sys.exit(128 + self.signals[0])

    def handle_signal(self, number: int, _: Any) -> None:
        self.signals.append(number)
        self.runs.processes.stop(hard=len(self.signals) > 1)

    def work(self) -> None:
        while not self.runs.processes.stopping:
            taken = self.queue.take(self.names)
            if taken is not None:
                self.run_point(taken)
            elif self.queue.is_busy(self.names):  # elsewhere, which may end without its work done, or make more
                deadline = time.monotonic() + POLL
                while time.monotonic() < deadline and not self.runs.processes.stopping:
                    time.sleep(0.05)
            else:
                return

    def run_point(self, taken: Any) -> None:
        """Run a point and report its outcome."""
        start = time.monotonic()
        self.running.append(taken.name)
        self.show_progress()
        try:
            scores = self.runs.make_point(taken.name, taken.lock)
            self.queue.complete(taken, scores, self.runs.followers(taken.name), self.runs.is_finished)
            verb, keys = self.runs.scored
            metrics = self.runs.metrics(taken.name, verb)
            numbers = "".join(f"  {key} {metrics[key]:.3f}" for key in keys if key in metrics)
            self.print_line(f"{taken.name}{numbers}  {time.monotonic() - start:.0f} s")
        except Stopped:
            self.queue.put_back(taken)
        except (Failed, OSError) as error:
            self.queue.fail(taken, str(error))
            self.print_line(f"{taken.name}  failed: {error}")
        finally:
            self.running.remove(taken.name)
        self.show_progress()

    def print_line(self, line: str) -> None:
        self.progress.console.print(line, markup=False, highlight=False)

    def show_progress(self) -> None:
        """Update the progress bar, and ``failed`` of ``sweep.json``; points of other processes count too."""
        file = self.plan.out / "sweep.json"
        with alone(self.plan.out / ".locks" / "record"):
            done, failed = self.queue.outcomes(self.names)
            record = read_json(file)
            all_failed = {**{name: why for name, why in record["failed"].items() if name not in self.names}, **failed}
            if record["failed"] != all_failed:
                write_json(file, {**record, "failed": all_failed})
        given_up = sum(point.of in failed for point in self.runs.points.values())
        left = len(self.names) - len(done) - len(failed) - given_up
        description = f"{len(done)} done, {len(failed)} failed, {left} left  {', '.join(self.running)}"
        self.progress.update(self.bar, completed=len(done), description=description)
