"""The queue of a sweep: an Optuna study that many processes and machines share."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lit_talr.utils.locks import Lock, alone, is_free, try_lock

NAME, WHY = "name", "why"
"""Attributes of a trial: the point's name, and why it failed; without a reason it was only put back."""
OPEN = (TrialState.WAITING, TrialState.RUNNING)


class Taken(NamedTuple):
    """A point that this worker runs."""

    name: str
    trial: optuna.Trial
    lock: Lock  # held until closed, and by each command that inherits it


class Queue:
    """Gives each point to one worker; the points of a killed worker are run again.

    The study is read and changed under a lock in the folder of runs, which the machines share. A worker and the commands that it started hold the lock of
    their point: where a running point's lock is free, its worker was killed.

    Args:
        out: Folder of the runs.
        storage: Optuna's URL, or None for a journal file in the folder.
        study: Name of the study.
        objectives: Of a new study: 2 for domain and general score, 1 for the first alone.

    Raises:
        ValueError: For a storage that cannot be opened.
    """

    def __init__(self, out: Path, storage: str | None, study: str, objectives: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.locks = out / ".locks"
        self.journal = out / "study.journal" if storage is None else None
        with self.alone():
            self.study = optuna.create_study(
                storage=open_storage(storage) if storage is not None else open_journal(out / "study.journal"),
                sampler=optuna.samplers.RandomSampler(),  # which never draws: every point is enqueued
                study_name=study,
                directions=["maximize"] * objectives,
                load_if_exists=True,
            )
        self.objectives = len(self.study.directions)

    @contextmanager
    def alone(self) -> Iterator[None]:
        with alone(self.locks / "study"):
            if self.journal is not None:
                trim_journal(self.journal)
            yield

    def states(self) -> dict[str, FrozenTrial]:
        """The latest trial of each point, by name."""
        return {trial.user_attrs[NAME]: trial for trial in self.study.get_trials(deepcopy=False) if NAME in trial.user_attrs}

    def add(self, names: Sequence[str], finished: Callable[[str], bool]) -> None:
        """Enqueue points that neither wait nor run and are not done; failed points, and completed ones that are not on the disk, are tried again."""
        with self.alone():
            self.put_back_abandoned(names)
            states = self.states()
            for name in names:
                state = states[name].state if name in states else None
                if state not in OPEN and not (state == TrialState.COMPLETE and finished(name)):
                    self.enqueue(name)

    def enqueue(self, name: str) -> None:
        self.study.enqueue_trial({NAME: name}, user_attrs={NAME: name})

    def put_back_abandoned(self, known: Sequence[str]) -> None:
        """Enqueue the points of killed workers, and those put back by a worker of another space."""
        for name, trial in self.states().items():
            abandoned = trial.state == TrialState.RUNNING and is_free(self.locks / name)
            if abandoned:
                self.study.tell(trial.number, state=TrialState.FAIL)
            if name in known and (abandoned or is_put_back(trial)):
                self.enqueue(name)

    def take(self, known: Sequence[str]) -> Taken | None:
        """Take the next point; None if none waits."""
        with self.alone():
            self.put_back_abandoned(known)
            while any(trial.state == TrialState.WAITING for trial in self.states().values()):
                trial = self.study.ask()
                name = str(trial.user_attrs.get(NAME))
                if name in known and (lock := try_lock(self.locks / name)) is not None:
                    return Taken(name, trial, lock)
                self.study.tell(trial, state=TrialState.FAIL)  # of another space; a sweep that has it puts it back
            return None

    def is_busy(self, known: Sequence[str]) -> bool:
        """Whether points wait, run (their worker may yet be killed), or are still to be put back."""
        with self.alone():
            return any(name in known and (trial.state in OPEN or is_put_back(trial)) for name, trial in self.states().items())

    def complete(self, taken: Taken, values: Sequence[float], followers: Sequence[str], finished: Callable[[str], bool]) -> None:
        """Enqueue the points that can follow, then record the scores: no worker finds the queue empty in between."""
        self.add(followers, finished)
        with self.alone():
            self.study.tell(taken.trial, values=list(values))
            taken.lock.close()

    def fail(self, taken: Taken, why: str) -> None:
        with self.alone():
            taken.trial.set_user_attr(WHY, why)
            self.study.tell(taken.trial, state=TrialState.FAIL)
            taken.lock.close()

    def put_back(self, taken: Taken) -> None:
        """Return a point that was not run to its end."""
        with self.alone():
            self.study.tell(taken.trial, state=TrialState.FAIL)
            self.enqueue(taken.name)
            taken.lock.close()

    def outcomes(self, known: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The names of completed points, and the reasons of failed ones by name."""
        with self.alone():
            states = {name: trial for name, trial in self.states().items() if name in known}
        done = [name for name, trial in states.items() if trial.state == TrialState.COMPLETE]
        return done, {name: trial.user_attrs[WHY] for name, trial in states.items() if trial.state == TrialState.FAIL and WHY in trial.user_attrs}


def is_put_back(trial: FrozenTrial) -> bool:
    """Whether it ended without a result and without a reason."""
    return trial.state == TrialState.FAIL and WHY not in trial.user_attrs


def trim_journal(journal: Path) -> None:
    """Cut off a line that was only half written: its process was killed, or the disk was full."""
    if not journal.exists() or not journal.stat().st_size:
        return
    with journal.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def open_journal(journal: Path) -> BaseStorage:
    no_lock: Any = threading.RLock()  # the queue has its own; a killed process would leave Optuna's behind
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=no_lock))


def open_storage(storage: str) -> BaseStorage:
    try:
        return optuna.storages.get_storage(storage)
    except Exception as error:  # from SQLAlchemy, a driver, Redis, ...; the URL may hold a password, so it is not repeated
        kind = storage.split(":")[0]
        raise ValueError(f"`--storage`: this {kind} storage could not be opened ({type(error).__name__}); give a URL that Optuna knows.") from error
