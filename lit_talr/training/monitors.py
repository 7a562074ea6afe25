"""Callbacks that watch a metric: it is one that the run logs, and they use it only with the weights that it was measured on."""

import logging
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lit_talr.losses.base import LossStrategy
from lit_talr.training.evaluation import EvaluatedModule
from lit_talr.utils.errors import nearest

logger = logging.getLogger(__name__)
STEP = ("train/loss", "train/nll", "train/learning_rate", "train/skipped_steps")
VALIDATION = ("val/nll", "val/perplexity", "val/token_accuracy")
BETTER = {
    **dict.fromkeys(("val/nll", "val/perplexity", "val/no_class", "val/cut", "val/unanswered", "drift/kl", "drift/bits_per_byte*", "general/drop*"), "min"),
    **dict.fromkeys(("general/*/spread", "general/*/sd", "drift/nll*"), "min"),
    **dict.fromkeys(("val/token_accuracy", "val/score", "val/accuracy", "val/accuracy/*", "val/balanced_accuracy", "val/macro_f1"), "max"),
    **dict.fromkeys(("val/strict", "val/lenient", "drift/agreement", "general/*"), "max"),
}
"""The right ``mode`` by the form of a metric's name; the first that fits. Other names pass with either."""
OWN = ("lightning.", "lit_talr.", "torch.")
"""Packages that log nothing but what is known here."""


@runtime_checkable
class LogsMetrics(Protocol):
    """A callback that names what it logs, so that a metric that is watched can be checked before the first step."""

    def metric_names(self, module: Any) -> Collection[str]:
        """Names of the numbers that it logs in this fit; one with ``*`` stands for all of its form."""


class FreshEarlyStopping(EarlyStopping):
    """Lightning's ``EarlyStopping``, which judges each measurement once and no older one again."""

    judged_step: int | None = None  # step of the measurement that was judged last

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        if is_measured_now(trainer.lightning_module, self.monitor):
            if self.judged_step != trainer.global_step:
                super()._run_early_stopping_check(trainer)
            self.judged_step = trainer.global_step
        elif self.monitor not in trainer.callback_metrics and trainer.lightning_module.validated_step is not None:  # type: ignore[union-attr]
            super()._run_early_stopping_check(trainer)  # which refuses a metric that nothing has measured

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if pl_module.loaded_step == trainer.global_step and not self._should_skip_check(trainer):  # the epoch of the checkpoint does not end again
            self._run_early_stopping_check(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "judged_step": self.judged_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.judged_step = state_dict.get("judged_step")


def is_measured_now(module: LightningModule | None, metric: str | None) -> bool:
    """Whether a metric was measured on the weights that the module has now."""
    assert isinstance(module, EvaluatedModule)
    measured = module.measured.get(str(metric))
    return measured is not None and measured.weights == module.weights


class FreshModelCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, which ranks a checkpoint by a metric of its own weights only."""

    def _save_monitor_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if is_measured_now(trainer.lightning_module, self.monitor):
            super()._save_monitor_checkpoint(trainer, monitor_candidates)


def adopt_monitors(trainer: Trainer) -> None:
    """Lets Lightning's callbacks that watch a metric use it with its own weights only, and refuses what cannot be so.

    Raises:
        ValueError: With the way out; for a metric that the run does not log, with the nearest names.
    """
    if not module_of(trainer).data.has_validation:
        leave_out_best(trainer)
    check_watched(trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            check_monitor(callback)
            if type(callback) is EarlyStopping:
                callback.__class__ = FreshEarlyStopping
            if type(callback) is ModelCheckpoint:
                callback.__class__ = FreshModelCheckpoint
        if isinstance(callback, ModelCheckpoint):
            flatten_names(callback)


def module_of(trainer: Trainer) -> EvaluatedModule:
    module = trainer.lightning_module
    assert isinstance(module, EvaluatedModule)
    return module


def leave_out_best(trainer: Trainer) -> None:
    """Takes checkpoints that are kept by a score of validation rows out of a run that has none; says so.

    Raises:
        ValueError: For a callback that measures where validation ends.
    """
    for callback in list(trainer.callbacks):  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(callback, ModelCheckpoint) and str(callback.monitor).startswith("val/"):
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
            rank_zero_only(logger.warning)(f"`{name}` with `monitor: {callback.monitor}` is left out, since there are no validation rows.")
        elif is_overridden("on_validation_epoch_end", callback, Callback) and getattr(callback, "every_n_epochs", None) is not None:
            raise ValueError(
                f"`{name}` with `every_n_epochs: {callback.every_n_epochs}` measures where validation ends, and there are no validation rows; give `data.val` "
                "or `data.validation`, or `every_n_epochs: null`."
            )


def check_monitor(callback: EarlyStopping | ModelCheckpoint) -> None:
    """Refuses a metric that is not of the weights that a callback judges, the wrong ``mode`` for it, and checkpoints where it is not measured."""
    name = type(callback).__name__
    better = next((mode for pattern, mode in BETTER.items() if fnmatchcase(str(callback.monitor), pattern)), callback.mode)
    if callback.mode != better:
        raise ValueError(
            f"`{name}` monitors `{callback.monitor}` with `mode: {callback.mode}`, which takes {'less' if better == 'max' else 'more'} of it for better; "
            f"give `mode: {better}`."
        )
    if str(callback.monitor).startswith("train/"):
        raise ValueError(f"`{name}` cannot watch `{callback.monitor}`, which is of the weights before a step and of its examples only; watch `val/nll`.")
    if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps:
        raise ValueError(
            f"`{name}`: `monitor: {callback.monitor}` asks for checkpoints where the metric is measured, and `every_n_train_steps` for others; "
            "leave one out (`trainer.val_check_interval` says when validation measures)."
        )


def flatten_names(callback: ModelCheckpoint) -> None:
    """Lets ``{val/nll}`` in a file name become ``val_nll=5.57``, where Lightning would make a folder ``val``."""
    if callback.auto_insert_metric_name and any("/" in name for name in names_in(callback.filename)):
        callback.filename = re.sub(r"\{([^:}]*)", lambda match: f"{match[1].replace('/', '_')}={{{match[1]}", str(callback.filename))
        callback.auto_insert_metric_name = False


def names_in(filename: str | None) -> list[str]:
    """The metrics in the template of a file name."""
    return re.findall(r"\{([^:}]*)", filename or "")


def check_watched(trainer: Trainer) -> None:
    """Refuses a metric that is watched, or part of a file name, and that the run does not log.

    What another package's callback, module or loss logs is known only if it says so (``LogsMetrics``). With one that does not, any name passes.

    Raises:
        ValueError: With the nearest name.
    """
    module = module_of(trainer)
    parts = [module, *module.loss.modules(), *trainer.callbacks]  # type: ignore[union-attr, attr-defined]
    if any(not type(part).__module__.startswith(OWN) and not isinstance(part, LogsMetrics) for part in parts):
        return
    known = logged_names(trainer, module)
    of_weights = [name for name in known if not name.startswith("train/")]  # others are of the weights before a step
    why = "`trainer.limit_val_batches: 0` turns validation off" if module.data.has_validation else "there are no validation rows"
    listed = ", ".join(of_weights) or f"no score, since {why}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for verb, name in watched(callback):
            if name in VALIDATION and name not in known:
                raise ValueError(
                    f"`{type(callback).__name__}` {verb} `{name}`, which nothing measures, since {why}; "
                    "change that, or give `trainer.callbacks` without this one."
                )
            if not any(fnmatchcase(name, pattern) for pattern in known):
                near = nearest(name.replace("loss", "nll"), of_weights)[:1]
                hint = f"did you mean `{near[0]}`? It" if near else "it"
                raise ValueError(f"`{type(callback).__name__}` {verb} `{name}`, which this run does not log; {hint} logs {listed}.")


def watched(callback: Callback) -> Iterator[tuple[str, str]]:
    """The metrics that a callback needs, each after what it does with it."""
    if (monitor := getattr(callback, "monitor", None)) is not None:
        yield "monitors", monitor
    if isinstance(callback, ModelCheckpoint):
        yield from (("names files by", name) for name in names_in(callback.filename) if name not in ("epoch", "step"))


def logged_names(trainer: Trainer, module: EvaluatedModule) -> list[str]:
    """Names of the numbers that a fit will log; one with ``*`` stands for all of its form."""
    names = [*STEP, *(VALIDATION if trainer.limit_val_batches else ())]
    names += [f"{type(part).__name__.lower()}/*" for part in module.loss.modules() if is_overridden("metrics", part, LossStrategy)]  # type: ignore[union-attr]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        names += callback.metric_names(module) if isinstance(callback, LogsMetrics) else []
        names += ["lr-*"] if isinstance(callback, LearningRateMonitor) else []
    return names
