"""Callbacks of Lightning that watch a metric: they use it only with the weights that it was measured on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lit_talr.training.evaluation import EvaluatedModule


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
        ValueError: With the way out.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor is None:
            continue
        name = type(callback).__name__
        if callback.monitor.startswith("train/"):
            raise ValueError(f"`{name}` cannot watch `{callback.monitor}`, which is of the weights before a step and of its examples only; watch `val/nll`.")
        if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps:
            raise ValueError(
                f"`{name}`: `monitor: {callback.monitor}` asks for checkpoints where the metric is measured, and `every_n_train_steps` for others; "
                "leave one out (`trainer.val_check_interval` says when validation measures)."
            )
        if type(callback) is EarlyStopping:
            callback.__class__ = FreshEarlyStopping
        if type(callback) is ModelCheckpoint:
            callback.__class__ = FreshModelCheckpoint
