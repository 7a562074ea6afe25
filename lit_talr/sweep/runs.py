"""The run folders of a sweep: what is left to do for each, and what stays when it is done."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_talr.checkpoint.find import last_checkpoint
from lit_talr.sweep.points import Point
from lit_talr.sweep.processes import Failed, Processes
from lit_talr.utils.files import read_json, remove, write_json
from lit_talr.utils.locks import Lock
from lit_talr.utils.score import Scores, last_step, read_scores, values

HPARAMS = ".hparams"
"""The ending of the event file for TensorBoard's page of that name."""


@dataclass(eq=False)
class Runs:
    """Makes the run folders of a sweep.

    Args:
        out: Folder of the runs.
        points: All points by name.
        tested: Whether trials are tested, or only fitted.
        keep: Whether checkpoints and exports of trials stay when nothing needs them any more.
        general: Whether general abilities are scored.
        processes: Runs the commands.
        code: Identifies the code that runs them.
    """

    out: Path
    points: dict[str, Point]
    tested: bool
    keep: bool
    general: bool
    processes: Processes
    code: str

    def check_folders(self) -> None:
        """Refuse folders that hold something else than these points."""
        for name, point in self.points.items():
            folder = self.out / name
            recorded = read_json(folder / "trial.json").get("commands", [])
            names = sorted(path.name for path in folder.glob("[!.]*"))
            if names and not recorded:
                raise ValueError(f"{folder} holds {names[0]}, which no sweep has written and this one would delete; name another folder with `--out`.")
            if recorded and point.alpha is None and without_folder(recorded[0]) != without_folder(point.lines()[0]):
                raise ValueError(f"{folder} was made by other words (its trial.json has them); name another folder with `--out`, or delete that one.")

    @property
    def scored(self) -> tuple[str, tuple[str, str]]:
        """The command that scores a point, and the names of domain and general score."""
        return ("test", ("test/score", "general/mean")) if self.tested else ("fit", ("val/score", "general/drop"))

    def records(self, name: str, verb: str) -> Scores:
        return read_scores(self.out / name / "metrics.json").get(verb, {})

    def metrics(self, name: str, verb: str) -> dict[str, float]:
        return values(self.records(name, verb))

    def is_finished(self, name: str) -> bool:
        """Whether all of it is on the disk."""
        if not (self.out / name / "trial.json").is_file():
            return False
        return bool(self.metrics(name, "test")) if self.tested else self.is_fitted(name)

    def is_fitted(self, name: str) -> bool:
        """Whether training has ended; the export is written last, and may be gone once the run was tested."""
        folder = self.out / name
        if not self.metrics(name, "fit"):
            return False
        return bool(self.metrics(name, "test")) or (folder / "export").is_dir() or "HFExport" not in (folder / "config.yaml").read_text(encoding="utf-8")

    def make_point(self, name: str, lock: Lock) -> list[float]:
        """Do all that is left of a point; gives its scores.

        Raises:
            Failed: If a command failed.
            Stopped: If the sweep is to end.
        """
        point = self.points[name]
        if not self.is_finished(name):
            if point.is_trial:
                self.fit_trial(point, lock)
            else:
                self.clear_folder(point)
            if self.tested:
                for number in range(1 if point.is_trial else 0, len(point.commands)):
                    self.run_command(point, number, lock)
        if self.tested:
            self.tidy_folder(point)
        return self.read_scores(name)

    def clear_folder(self, point: Point) -> None:
        """An empty folder with its ``trial.json``; interpolations of its previous weights go too.

        That file stays throughout, so that a sweep that is killed here knows the folder for its own.
        """
        for name in (point.name, *(other for other, its in self.points.items() if its.of == point.name)):
            for path in (self.out / name).glob("*"):
                if path.name != "trial.json":
                    remove(path)
        write_json(self.out / point.name / "trial.json", {**point.record(), "code": self.code})

    def fit_trial(self, point: Point, lock: Lock) -> None:
        """Train, from the last whole checkpoint where there is one."""
        if self.is_fitted(point.name):
            return
        try:
            last_checkpoint(self.out / point.name)
        except ValueError:
            self.fit_anew(point, lock)
        else:
            self.run_command(point, 0, lock, "--ckpt_path", "last")
            if not self.tested and "val/score" not in self.metrics(point.name, "fit"):  # killed between its last checkpoint and its metrics
                self.fit_anew(point, lock)
        if not self.is_fitted(point.name):
            raise Failed("fit ended without its metrics or its export; `callbacks` needs Summary and, where it is there, HFExport.")

    def fit_anew(self, point: Point, lock: Lock) -> None:
        self.clear_folder(point)
        self.run_command(point, 0, lock)

    def run_command(self, point: Point, number: int, lock: Lock, *more: str) -> None:
        self.processes.run_command([*point.commands[number], *more], self.out / f"{point.name}.log", lock)

    def read_scores(self, name: str) -> list[float]:
        """Domain and, where it is scored, general score."""
        verb, keys = self.scored
        metrics = self.metrics(name, verb)
        if not metrics:
            raise Failed(f"{verb} wrote no scores; `callbacks` needs Summary.")
        wanted = keys[: 1 + self.general]
        if missing := [key for key in wanted if not math.isfinite(metrics.get(key, math.nan))]:
            source = "DomainScore" if missing[0].endswith("/score") else "GeneralScore"
            raise Failed(f"{verb} scored no {missing[0]}; `callbacks` needs {source}{'' if self.tested else ', every so many epochs'}.")
        return [-metrics[key] if key == "general/drop" else metrics[key] for key in wanted]

    def followers(self, name: str) -> list[str]:
        """The points that can be run when this one is done."""
        return [other for other, point in self.points.items() if point.of == name] if self.tested else []

    def tidy_folder(self, point: Point) -> None:
        """After a test: record the point, for people and for TensorBoard, and delete what is of no more use."""
        folder = self.out / point.name
        write_json(folder / "trial.json", {**point.record(), "code": read_json(folder / "trial.json").get("code")})  # that it was begun with
        if not any(folder.glob(f"*{HPARAMS}")):
            self.write_hparams(point)
        shutil.rmtree(folder / "merged", ignore_errors=True)
        trial = point.of or point.name
        if not self.keep and all(self.is_finished(other) for other in [trial, *self.followers(trial)]):
            for part in ("checkpoints", "export"):
                shutil.rmtree(self.out / trial / part, ignore_errors=True)

    def write_hparams(self, point: Point) -> None:
        """Write the event file for TensorBoard's page HParams."""
        from torch.utils.tensorboard import SummaryWriter  # half a second that other commands need not wait
        from torch.utils.tensorboard.summary import hparams

        test, base_test = self.metrics(point.name, "test"), self.metrics(point.base, "test")
        scores: dict[str, float] = {key: test[key] for key in ("test/score", "general/mean") if key in test}
        if "general/mean" in test and "general/mean" in base_test:
            scores["general/drop"] = base_test["general/mean"] - test["general/mean"]  # which a test of merged weights does not log
        settings: dict[str, Any] = {key: value for key in ("variant", "remedy", "rate", "seed", "alpha") if (value := getattr(point, key)) is not None}
        step = last_step(self.records(point.name, "fit")) or 0
        with SummaryWriter(str(self.out / point.name), filename_suffix=HPARAMS) as writer:
            assert writer.file_writer is not None
            for summary in hparams(settings, scores):
                writer.file_writer.add_summary(summary)
            for key, value in scores.items():
                writer.add_scalar(key, value, step)


def without_folder(line: str) -> str:
    """A command without the folder that it writes to, which can be named in several ways."""
    return line.split(" --run ")[0]
