"""The points of a sweep that wait, run or are done, in an Optuna study that many processes and machines share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from lit_talr.utils.locks import alone, is_free, try_lock

NAME, WHY = "name", "why"
"""Attributes of a trial: of which point it is, and why it failed; without a reason it was only put back."""
OPEN = (TrialState.WAITING, TrialState.RUNNING)


class Taken(NamedTuple):
    """A point that is this worker's to run."""

    name: str
    trial: optuna.Trial
    lock: IO[str]  # held until closed, and by each command that inherits it


class Nothing(JournalFileOpenLock):
    """The queue keeps others out of the journal itself, by a lock that a killed process does not leave behind as Optuna's own does."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Queue:
    """Each point is run by one worker; what a worker that was killed has left is run again.

    All that touches the study happens alone, under a lock of the folder of runs, which the machines share. A worker holds a lock for the point that it
    runs, and so do the commands that it started: a point that is called running, whose lock is free, is nobody's.

    Args:
        out: Folder of the runs.
        storage: Optuna's URL, or None for a journal file in the folder.
        study: Name of the study.
        objectives: 2 for domain and general score, 1 for the first alone; for a study that is new.

    Raises:
        ValueError: For a storage that cannot be opened.
    """

    def __init__(self, out: Path, storage: str | None, study: str, objectives: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.locks = out / ".locks"
        self.journal = out / "study.journal" if storage is None else None
        with self.alone():
            self.study = optuna.create_study(
                storage=opened(storage) if storage is not None else JournalStorage(JournalFileBackend(str(self.journal), lock_obj=Nothing(str(self.journal)))),
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
                take_off_half_a_line(self.journal)
            yield

    def states(self) -> dict[str, FrozenTrial]:
        """The latest trial of each point."""
        return {trial.user_attrs[NAME]: trial for trial in self.study.get_trials(deepcopy=False) if NAME in trial.user_attrs}

    def add(self, names: Sequence[str], finished: Callable[[str], bool]) -> None:
        """Enqueue points that neither wait nor run and are not done; what is called done and is not there is done again, and what failed is tried again."""
        with self.alone():
            self.put_back_lost(names)
            states = self.states()
            for name in names:
                state = states[name].state if name in states else None
                if state not in OPEN and not (state == TrialState.COMPLETE and finished(name)):
                    self.enqueue(name)

    def enqueue(self, name: str) -> None:
        self.study.enqueue_trial({NAME: name}, user_attrs={NAME: name})

    def put_back_lost(self, known: Sequence[str]) -> None:
        """What workers have left that are no more, or that could not know it."""
        for name, trial in self.states().items():
            left = trial.state == TrialState.RUNNING and is_free(self.locks / name)
            if left:
                self.study.tell(trial.number, state=TrialState.FAIL)
            if name in known and (left or was_left(trial)):
                self.enqueue(name)

    def take(self, known: Sequence[str]) -> Taken | None:
        """The next point, which nobody else gets; None if none waits."""
        with self.alone():
            self.put_back_lost(known)
            while any(trial.state == TrialState.WAITING for trial in self.states().values()):
                trial = self.study.ask()
                name = str(trial.user_attrs.get(NAME))
                if name in known and (lock := try_lock(self.locks / name)) is not None:
                    return Taken(name, trial, lock)
                self.study.tell(trial, state=TrialState.FAIL)  # of another space; a sweep that knows it puts it back
            return None

    def is_busy(self, known: Sequence[str]) -> bool:
        """Whether points wait, or run somewhere and may yet be left behind, or were left and are still to be put back."""
        with self.alone():
            return any(name in known and (trial.state in OPEN or was_left(trial)) for name, trial in self.states().items())

    def done(self, taken: Taken, values: Sequence[float], then: Sequence[str], finished: Callable[[str], bool]) -> None:
        """A point is scored; what can follow now is enqueued, first, so that nobody finds nothing to wait for."""
        self.add(then, finished)
        with self.alone():
            self.study.tell(taken.trial, values=list(values))
            taken.lock.close()

    def failed(self, taken: Taken, why: str) -> None:
        with self.alone():
            taken.trial.set_user_attr(WHY, why)
            self.study.tell(taken.trial, state=TrialState.FAIL)
            taken.lock.close()

    def put_back(self, taken: Taken) -> None:
        """Not run to its end: for whoever comes next."""
        with self.alone():
            self.study.tell(taken.trial, state=TrialState.FAIL)
            self.enqueue(taken.name)
            taken.lock.close()

    def counts(self, known: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The names of points that are done, and of those that failed why."""
        with self.alone():
            states = {name: trial for name, trial in self.states().items() if name in known}
        done = [name for name, trial in states.items() if trial.state == TrialState.COMPLETE]
        return done, {name: trial.user_attrs[WHY] for name, trial in states.items() if trial.state == TrialState.FAIL and WHY in trial.user_attrs}


def was_left(trial: FrozenTrial) -> bool:
    """Whether it ended without a result and without a reason."""
    return trial.state == TrialState.FAIL and WHY not in trial.user_attrs


def take_off_half_a_line(journal: Path) -> None:
    """At the end of a file that only grows, of a process that was killed while it wrote, or whose disk was full."""
    if not journal.exists() or not (size := journal.stat().st_size):
        return
    with journal.open("r+b") as file:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def opened(storage: str) -> BaseStorage:
    try:
        return optuna.storages.get_storage(storage)
    except Exception as error:  # of SQLAlchemy, of a driver, of Redis: whatever stands behind the URL; which may hold a password, so it is not repeated
        kind = storage.split(":")[0]
        raise ValueError(f"`--storage`: this {kind} storage could not be opened ({type(error).__name__}); give a URL that Optuna knows.") from error
