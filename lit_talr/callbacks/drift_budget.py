"""Ends a run that has gone too far from where it started."""

import logging
import math
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from lit_talr.callbacks.base import LogsDrift
from lit_talr.data.encoded import Batch
from lit_talr.modeling.strategies import FSDP2Strategy
from lit_talr.module import DomainSFT

logger = logging.getLogger(__name__)


class DriftBudget(Callback):
    """Stops training where ``drift/kl`` passes its budget by more than two standard errors; needs ``Drift``. A run that it has stopped stays so when resumed.

    With ``restore`` the run ends with the weights of the last measurement within the budget, at first the starting model's: they are exported, and the last
    checkpoint holds them (under the number of the step that the run ended at). Of the metrics, those of the drift are that measurement's again, with its step
    as ``drift/restored_step``, and all others but training's, which are of other weights, are left out; validation that follows is of the restored ones.
    Until then a copy of what is trained is kept in the CPU's memory of every rank and in the checkpoints.

    Args:
        kl: Nats per token that the model may be away from where it started, at least 0.
        errors: By how many standard errors the divergence must pass the budget, at least 0.
        on_exceeded: ``stop``, or ``restore`` the weights too.

    Raises:
        ValueError: For a value out of range, where no ``Drift`` comes before it; for ``restore`` with DeepSpeed or FSDP2, and where it resumes a run that it
            has not watched.
    """

    def __init__(self, kl: float, errors: float = 2.0, on_exceeded: Literal["stop", "restore"] = "stop") -> None:
        for name, value in (("kl", kl), ("errors", errors)):
            if not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be at least 0 and finite, got {value}.")
        if on_exceeded not in ("stop", "restore"):
            raise ValueError(f"`on_exceeded` must be stop or restore, got {on_exceeded}.")
        self.kl = kl
        self.errors = errors
        self.on_exceeded = on_exceeded
        self.stopped = False
        self.kept_step = 0
        self.kept_weights: dict[str, Tensor] = {}
        self.kept_metrics: dict[str, float] = {}
        self._judged_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        if stage != "fit":
            return
        drift(trainer, self)
        if self.on_exceeded == "restore" and isinstance(trainer.strategy, (DeepSpeedStrategy, FSDP2Strategy)):
            raise ValueError(
                "`on_exceeded: restore` puts whole weights back, which is not supported where an engine splits them or their optimizer (DeepSpeed, FSDP2); "
                "use `stop`, or configs/strategy/ddp.yaml."
            )

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if self.stopped:
            trainer.should_stop = True
            return
        self.judge(trainer, pl_module)
        if self.on_exceeded == "restore" and not self.kept_weights:
            raise ValueError("`on_exceeded: restore` must watch a run from its start, but the checkpoint is of a run without it; use `stop` to resume.")

    def on_train_batch_end(self, trainer: Trainer, pl_module: DomainSFT, outputs: Any, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        self.judge(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.judge(trainer, pl_module)

    def judge(self, trainer: Trainer, module: DomainSFT) -> None:
        """Where there is a new measurement: keep what it is of, or end the run."""
        step = drift(trainer, self).measured_step
        if self.stopped or step is None or step != trainer.global_step or step == self._judged_step:
            return
        self._judged_step = step
        kl, error = (float(trainer.callback_metrics[name]) for name in ("drift/kl", "drift/kl_se"))
        if kl - self.errors * error <= self.kl:
            self.keep(trainer, module, step)
            return
        self.stopped = trainer.should_stop = True
        way = ""
        if self.on_exceeded == "restore":
            self.restore(trainer, module)
            way = f", with the weights of step {self.kept_step}"
        if trainer.is_global_zero:
            passed = f"drift/kl is {kl:.3g} (standard error {error:.2g}), over the budget of {self.kl:g}"
            logger.info(f"DriftBudget: {passed}; the run ends after step {step}{way}.")

    def keep(self, trainer: Trainer, module: DomainSFT, step: int) -> None:
        self.kept_step = step
        if self.on_exceeded == "restore":
            self.kept_weights = {name: weight.detach().to("cpu", copy=True) for name, weight in module.named_parameters() if weight.requires_grad}
            self.kept_metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("drift/")}

    @torch.no_grad()
    def restore(self, trainer: Trainer, module: DomainSFT) -> None:
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                weight.copy_(self.kept_weights[name])
        self.kept_weights = {}
        metrics = trainer.callback_metrics
        for name in [name for name in metrics if not name.startswith("train/")]:
            del metrics[name]
        metrics.update({name: torch.tensor(value) for name, value in self.kept_metrics.items()})
        metrics["drift/restored_step"] = torch.tensor(float(self.kept_step))

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped, "step": self.kept_step, "weights": self.kept_weights, "metrics": self.kept_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stopped = state_dict["stopped"]
        self.kept_step = state_dict["step"]
        self.kept_weights = state_dict["weights"]
        self.kept_metrics = state_dict["metrics"]


def drift(trainer: Trainer, budget: DriftBudget) -> LogsDrift:
    """What measures for a budget: the last one before it."""
    before = trainer.callbacks[: trainer.callbacks.index(budget)]  # type: ignore[attr-defined]
    found = [callback for callback in before if isinstance(callback, LogsDrift)]
    if not found:
        raise ValueError("`DriftBudget` reads `drift/kl`, which nothing logs; put a `Drift` before it.")
    return found[-1]
