"""Callbacks of Lightning that watch a metric: they use it only with the weights that it was measured on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

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


def adopt_monitors(trainer: Trainer) -> None:
    """Lets ``EarlyStopping`` judge new measurements only, and refuses callbacks that would take a metric for that of other weights.

    Raises:
        ValueError: With the way out.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if type(callback) is EarlyStopping:
            callback.__class__ = FreshEarlyStopping
        if type(callback) is ModelCheckpoint and monitor is not None:
            raise ValueError(
                f"Lightning's `ModelCheckpoint` with `monitor: {monitor}` can name a checkpoint by the metric of earlier weights; "
                "use `WholeCheckpoint`, which takes the same options."
            )
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and str(monitor).startswith("train/"):
            raise ValueError(
                f"`{type(callback).__name__.removeprefix('Fresh')}` cannot watch `{monitor}`, which is of the weights before a step and of its examples only; "
                "watch `val/nll`."
            )
