"""Finds the best checkpoint of a run, by the metric that it was kept for."""

from pathlib import Path

from lit_talr.checkpoint.checkpoint_weights import checkpoint_record
from lit_talr.checkpoint.find import hold_last, hold_whole
from lit_talr.checkpoint.pickles import refuse_code
from lit_talr.utils.locks import Lock

WAY_OUT = "ask for `last`, or give the path of a checkpoint"


def hold_best(run: Path) -> tuple[Path, Lock]:
    """The best checkpoint of a run, with a lock that keeps a ``fit`` that is running from deleting it.

    Raises:
        ValueError: If none was kept by a metric, if several metrics have different ones, or if it is not whole.
    """
    path = find_best(run)
    while not path.exists() and (newer := find_best(run)) != path:  # replaced meanwhile
        path = newer
    return path, hold_whole(path, "ckpt_path: best", WAY_OUT)


def find_best(run: Path) -> Path:
    """The best checkpoint of a run, as its newest whole one has it on record."""
    newest, lock = hold_last(run)
    with lock:
        refuse_code(newest)
        callbacks = checkpoint_record(newest).get("callbacks", {})
    states = [state for state in callbacks.values() if isinstance(state, dict) and state.get("best_model_path")]
    best = {Path(state["best_model_path"]).name: state["monitor"] for state in states if state.get("monitor")}
    if not best:
        raise ValueError(f"`ckpt_path: best`: no checkpoint of {run} was kept by a metric, as `WholeCheckpoint` does with `monitor: val/nll`; {WAY_OUT}.")
    if len(best) > 1:
        found = ", ".join(f"{name} (by {metric})" for name, metric in best.items())
        raise ValueError(f"`ckpt_path: best`: {run} has several: {found}; give the path of one of them.")
    return newest.parent / next(iter(best))
