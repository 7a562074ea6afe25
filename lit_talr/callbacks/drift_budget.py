"""Ends a run whose model has moved too far from the base model."""

from typing import Any, Literal

import torch
from lightning.pytorch import Trainer

from lit_talr.callbacks.base import Budget
from lit_talr.modeling.strategies import splits_optimizer
from lit_talr.module import DomainSFT
from lit_talr.utils.errors import check_in


class DriftBudget(Budget):
    """Ends training where ``drift/kl`` passes its budget by more than ``errors`` standard errors; needs ``Drift``.

    A run that was ended stays so when it is resumed. With ``restore`` it ends with the weights of the last measurement within the budget, at first the base
    model's. They are exported, and the last checkpoint holds them, under the step at which the run ended. Metrics of other weights are dropped, except those
    of training: ``drift/*`` are those of the restored measurement, and ``drift/restored_step`` is its step. Validation that follows sees the restored weights.
    Until then every rank holds a copy of the trained weights on the CPU, and so do the checkpoints.

    Args:
        kl: Divergence from the base model that is allowed, in nats per token, at least 0 and finite.
        errors: By how many standard errors the divergence must pass the budget, at least 0 and finite.
        on_exceeded: ``stop``, or ``restore`` the weights too.

    Raises:
        ValueError: For a value out of range, and where no ``Drift`` comes before it; for ``restore`` with DeepSpeed or FSDP2, and when it resumes a run
            that it has not watched.
    """

    measures = "drift/kl"
    sources = "a `Drift`"
    nan_exceeds = True  # the model gives no numbers any more

    def __init__(self, kl: float, errors: float = 2.0, on_exceeded: Literal["stop", "restore"] = "stop") -> None:
        check_in("kl", kl, "[0, inf)")
        if on_exceeded not in ("stop", "restore"):
            raise ValueError(f"`on_exceeded` must be stop or restore, got {on_exceeded}.")
        super().__init__(kl, errors)
        self.on_exceeded = on_exceeded
        self.held: dict[str, Any] = {"step": 0, "weights": {}, "metrics": {}}  # of the last measurement within the budget

    def setup(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.on_exceeded == "restore" and splits_optimizer(trainer.strategy):
            raise ValueError(
                "`on_exceeded: restore` puts whole weights back, which is not supported where an engine splits them or their optimizer (DeepSpeed, FSDP2); "
                "use `stop`, or configs/strategy/ddp.yaml."
            )

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        if self.on_exceeded == "restore" and not self.stopped and not self.held["weights"]:
            raise ValueError("`on_exceeded: restore` must watch a run from its start, but the checkpoint is of a run without it; use `stop` to resume.")
        if self.on_exceeded == "restore" and self.stopped:
            pl_module.restored_step = self.held["step"]

    def keep(self, trainer: Trainer, module: DomainSFT) -> None:
        self.held["step"] = trainer.global_step
        if self.on_exceeded == "restore":
            self.held["weights"] = {name: weight.detach().to("cpu", copy=True) for name, weight in module.named_parameters() if weight.requires_grad}
            self.held["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("drift/")}

    @torch.no_grad()
    def restore(self, trainer: Trainer, module: DomainSFT) -> str:
        if self.on_exceeded == "stop":
            return ""
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                weight.copy_(self.held["weights"][name])
        self.held["weights"] = {}
        module.restored_step = self.held["step"]
        metrics = trainer.callback_metrics
        for name in [name for name in metrics if not name.startswith("train/")]:
            del metrics[name]
        metrics.update({name: torch.tensor(value) for name, value in self.held["metrics"].items()})
        metrics["drift/restored_step"] = torch.tensor(float(self.held["step"]))
        return f", with the weights of step {self.held['step']}"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self.held}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.held = {name: state_dict[name] for name in self.held}
