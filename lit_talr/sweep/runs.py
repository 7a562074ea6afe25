"""Runs a point: its commands, one after the other, as anyone could type them; and what it leaves."""

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lit_talr.checkpoint.whole import last_checkpoint
from lit_talr.sweep.points import Point
from lit_talr.utils.files import read_json, write_json

COMMAND = [sys.executable, "-m", "lit_talr"]
HPARAMS = ".hparams"
"""How the event file ends that TensorBoard's page of that name reads."""


class Failed(Exception):
    """A command that failed, in one sentence."""


class Stopped(Exception):
    """The sweep is told to end; nothing is wrong with the point."""


class Runs:
    """The run folders of a sweep.

    Args:
        out: Folder of the runs.
        points: All points by name.
        tested: Whether trials are scored on test rows, or only fitted.
        keep: Whether checkpoints and exports of trials stay when nothing needs them any more.
        general: Whether general abilities are scored.
        threads: Of each command on the CPU, unless OMP_NUM_THREADS says otherwise: workers that take all cores each would wait for each other.
    """

    def __init__(self, out: Path, points: dict[str, Point], tested: bool, keep: bool, general: bool, threads: int) -> None:
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self.out, self.points, self.tested, self.keep, self.general = out, points, tested, keep, general
        self.stopping = False
        self.children: dict[str, subprocess.Popen[bytes]] = {}  # by point
        self.guard = threading.Lock()

    def check(self) -> None:
        """Refuse folders that hold something else than these points.

        Raises:
            ValueError: For the first of them.
        """
        for name, point in self.points.items():
            folder = self.out / name
            recorded = read_json(folder / "trial.json").get("commands", [])
            if not recorded and any((folder / file).exists() for file in ("config.yaml", "metrics.json")):
                raise ValueError(f"{folder} is a run that no sweep has made; name another folder with `--out`.")
            if recorded and point.alpha is None and what(recorded[0]) != what(point.lines()[0]):
                raise ValueError(f"{folder} was made by other words (its trial.json has them); name another folder with `--out`, or delete that one.")

    def metrics(self, name: str, verb: str) -> dict[str, float]:
        return read_json(self.out / name / "metrics.json").get(verb, {})

    def finished(self, name: str) -> bool:
        """Whether all of it is on the disk."""
        if not (self.out / name / "trial.json").is_file():
            return False
        return bool(self.metrics(name, "test")) if self.tested else self.fitted(name)

    def fitted(self, name: str) -> bool:
        """Whether training came to its end; the export is what is written last, and may be gone once the run was tested."""
        folder = self.out / name
        if not self.metrics(name, "fit"):
            return False
        return bool(self.metrics(name, "test")) or (folder / "export").is_dir() or "HFExport" not in (folder / "config.yaml").read_text(encoding="utf-8")

    def run(self, name: str, lock: IO[str]) -> list[float]:
        """All that is left to do of a point; gives its scores.

        Raises:
            Failed: If a command failed.
            Stopped: If the sweep is to end.
        """
        point = self.points[name]
        if not self.finished(name):
            if point.remedy != "base" and point.alpha is None:
                self.fit(point, lock)
            else:
                self.begin(point)
            if self.tested:
                for words in point.commands if point.alpha is not None else point.commands[-1:]:
                    self.command(point, words, lock)
        if self.tested:
            self.tidy(point)
        return self.scores(name)

    def begin(self, point: Point) -> None:
        """An empty folder that says what it is to hold; interpolations of what was there before go with it."""
        for name in (point.name, *(other for other, its in self.points.items() if its.of == point.name)):
            shutil.rmtree(self.out / name, ignore_errors=True)
        write_json(self.out / point.name / "trial.json", point.record())

    def fit(self, point: Point, lock: IO[str]) -> None:
        """Train, from the last whole checkpoint where there is one."""
        if self.fitted(point.name):
            return
        try:
            last_checkpoint(self.out / point.name)
        except ValueError:
            self.fit_anew(point, lock)
        else:
            self.command(point, [*point.commands[0], "--ckpt_path", "last"], lock)
            if not self.tested and "val/score" not in self.metrics(point.name, "fit"):  # killed between its last checkpoint and its metrics
                self.fit_anew(point, lock)
        if not self.fitted(point.name):
            raise Failed("fit ended without its metrics or its export; `callbacks` needs Summary and, where it is there, HFExport.")

    def fit_anew(self, point: Point, lock: IO[str]) -> None:
        self.begin(point)
        self.command(point, point.commands[0], lock)

    def command(self, point: Point, words: Sequence[str], lock: IO[str]) -> None:
        """Run one command; what it says goes to the point's log. It inherits the lock, so that it is not run twice even if this process is killed."""
        log = self.out / f"{point.name}.log"
        with log.open("ab") as file:
            start = file.tell()
            with self.guard:
                if self.stopping:
                    raise Stopped
                child = subprocess.Popen(
                    [*COMMAND, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,  # what is typed at the terminal reaches it through us only
                    pass_fds=[lock.fileno()],
                )
                self.children[point.name] = child
            code = child.wait()
            with self.guard:
                del self.children[point.name]
        if code and self.stopping:
            raise Stopped
        if code:
            raise Failed(f"{words[0]} failed: {reason(log, start, code)}")

    def stop(self, hard: bool = False) -> None:
        """Let nothing begin, and tell what runs to end: ``fit`` saves itself; hard, at once."""
        with self.guard:
            self.stopping = True
            for child in self.children.values():
                with suppress(ProcessLookupError):  # it has just ended
                    if hard:
                        os.killpg(child.pid, signal.SIGKILL)
                    else:
                        child.send_signal(signal.SIGTERM)

    def scores(self, name: str) -> list[float]:
        """Domain and, where it is scored, general score."""
        wanted = ["test/score", "general/mean"] if self.tested else ["val/score", "general/drop"]
        found = self.metrics(name, "test" if self.tested else "fit")
        if missing := [key for key in wanted[: 1 + self.general] if not math.isfinite(found.get(key, math.nan))]:
            source = "DomainScore" if missing[0].endswith("/score") else "GeneralScore"
            epochs = "" if self.tested else ", every so many epochs"
            raise Failed(f"{'test' if self.tested else 'fit'} scored no {missing[0]}; `callbacks` needs {source}{epochs}.")
        signs = [1, 1] if self.tested else [1, -1]
        return [sign * found[key] for sign, key in zip(signs, wanted[: 1 + self.general], strict=False)]

    def following(self, name: str) -> list[str]:
        """The points that can be run when this one is done."""
        return [other for other, point in self.points.items() if point.of == name] if self.tested else []

    def tidy(self, point: Point) -> None:
        """After a test: what the point is, for people and for TensorBoard; and what is of no more use goes."""
        folder = self.out / point.name
        write_json(folder / "trial.json", point.record())
        if not any(folder.glob(f"*{HPARAMS}")):
            self.write_hparams(point)
        shutil.rmtree(folder / "merged", ignore_errors=True)
        trial = point.of or point.name
        if not self.keep and all(self.finished(other) for other in [trial, *self.following(trial)]):
            for part in ("checkpoints", "export"):
                shutil.rmtree(self.out / trial / part, ignore_errors=True)

    def write_hparams(self, point: Point) -> None:
        """For TensorBoard's page HParams."""
        from torch.utils.tensorboard import SummaryWriter  # half a second that other commands need not wait
        from torch.utils.tensorboard.summary import hparams

        found, before = self.metrics(point.name, "test"), self.metrics(point.base, "test")
        scores: dict[str, float] = {key: found[key] for key in ("test/score", "general/mean") if key in found}
        if "general/mean" in found and "general/mean" in before:
            scores["general/drop"] = before["general/mean"] - found["general/mean"]  # which a test of merged weights does not know
        settings: dict[str, Any] = {key: value for key, value in point.record().items() if key in ("variant", "remedy", "rate", "seed", "alpha")}
        step = int(self.metrics(point.name, "fit").get("step", 0))
        with SummaryWriter(str(self.out / point.name), filename_suffix=HPARAMS) as writer:
            assert writer.file_writer is not None
            for summary in hparams({key: value for key, value in settings.items() if value is not None}, scores):
                writer.file_writer.add_summary(summary)
            for key, value in scores.items():
                writer.add_scalar(key, value, step)


def what(line: str) -> str:
    """A command without the folder that it writes to, which can be named in several ways."""
    return line.split(" --run ")[0]


def reason(log: Path, start: int, code: int) -> str:
    """Why a command failed: what lit-talr says of it, or else the last line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("lit-talr:").strip() for line in lines if line.startswith("lit-talr:")]
    if said:
        return said[-1]
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{lines[-1]} ({ended})" if lines else ended
