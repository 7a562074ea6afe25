"""Ends a run that has cost more general ability than it may."""

import logging
from typing import Any

from lightning.pytorch import Callback, Trainer

from lit_talr.callbacks.base import LogsDrop
from lit_talr.module import DomainSFT

logger = logging.getLogger(__name__)


class GeneralBudget(Callback):
    """Stops training where ``general/drop`` passes its budget by more than two standard errors; needs ``GeneralScore`` or
    ``LMEval``. A low domain score stops nothing.

    A run that it has stopped stays so when it is resumed.

    Args:
        general_drop: What the mean over the general suites may lose, in [0, 1].
        errors: By how many standard errors the drop must pass the budget, at least 0.

    Raises:
        ValueError: For a value out of range, and where neither comes before it.
    """

    def __init__(self, general_drop: float, errors: float = 2.0) -> None:
        if not 0 <= general_drop <= 1:
            raise ValueError(f"`general_drop` must lie in [0, 1], got {general_drop}.")
        if errors < 0:
            raise ValueError(f"`errors` must be at least 0, got {errors}.")
        self.general_drop = general_drop
        self.errors = errors
        self.stopped = False

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        before = trainer.callbacks[: trainer.callbacks.index(self)]  # type: ignore[attr-defined]
        if stage == "fit" and not any(isinstance(callback, LogsDrop) for callback in before):
            raise ValueError("`GeneralBudget` reads `general/drop`, which nothing logs; put a `GeneralScore` or an `LMEval` before it.")

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        trainer.should_stop = trainer.should_stop or self.stopped

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stopped = state_dict["stopped"]

    def on_validation_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        if "general/drop" not in metrics:
            return  # not asked yet
        drop, error = float(metrics["general/drop"]), float(metrics["general/drop_se"])
        if drop - self.errors * error > self.general_drop:
            self.stopped = trainer.should_stop = True
            if trainer.is_global_zero:
                passed = f"general/drop is {drop:.3f} (standard error {error:.3f}), over the budget of {self.general_drop:g}"
                logger.info(f"GeneralBudget: {passed}; the run ends after epoch {trainer.current_epoch + 1}.")
