"""How much of what training changed can be seen in the arithmetic that the model is computed in."""

import logging

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lit_talr.checkpoint.rounding import Rounding, median_distance
from lit_talr.modeling.sharded import model_tensors, whole
from lit_talr.module import DomainSFT
from lit_talr.training.base_model import compute_dtype
from lit_talr.utils.weight_files import TensorInfo, model_folder

logger = logging.getLogger(__name__)
HALF = 0.5
"""Share of the update below which a run is warned of, and share of the weights that the first line is about."""


class VisibleUpdate(Callback):
    """Logs ``update/visible``, the share of the update that is left where weights are rounded to the dtype that the run computes in.

    With theta the trained weights, theta_0 the base model's and r the rounding, it is ``<r(theta) - r(theta_0), theta - theta_0> / ||theta - theta_0||^2``:
    1 where all of the update shows, 0 where every weight rounds back to where it started. Published weights lie on the grid of bfloat16, and small updates
    do not leave it: then what is computed in bfloat16 hardly shows what was learned (docs/precision.md). Measured after every epoch and where the run ends,
    over all trained weights, exactly under every strategy. theta_0 is read from the base model's files, one tensor at a time. Training is bitwise the same
    with and without this callback.

    Before the first step of Adam or AdamW, a line says where rate times steps cannot move half of the weights to another number. A run that ends below .5
    says what that means, and the ways out.

    There is nothing to measure, and nothing is logged, in full precision, with random weights, with an adapter (which keeps the update apart from the weights),
    and where no weight has moved.
    """

    def __init__(self) -> None:
        self.measured_step: int | None = None  # optimizer step of the weights that were measured last
        self.rounding: Rounding | None = None  # that measurement

    def metric_names(self, module: DomainSFT) -> list[str]:
        return ["update/visible"] if is_rounded(module.trainer, module) else []

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Compare the reach of the optimizer with the distance to the next number."""
        weights = trained_weights(trainer, pl_module)
        optimizer = trainer.optimizers[0]
        if not weights or not trainer.is_global_zero or "adam" not in type(optimizer).__name__.lower():
            return
        dtype, rate = compute_dtype(trainer), max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)
        num_steps = pl_module.num_steps
        reach = rate * sum(pl_module.schedule.factor(step, num_steps) for step in range(num_steps))
        needed = median_distance(dtype, (info for _, info in weights.values()))
        if rate and reach < needed:
            logger.info(
                f"{type(optimizer).__name__} moves a weight by at most about {reach:.2g} in this run (rate {rate:g}, {num_steps:,} steps), and half of the "
                f"weights need {needed:.2g} to round to another {name_of(dtype)}: {needed / rate:,.0f} steps at the full rate. Scores in {name_of(dtype)} may "
                "hardly show what is learned (docs/precision.md)."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Measure, also where the run ends inside an epoch. Collective."""
        if self.measured_step == trainer.global_step:
            return
        self.measured_step = trainer.global_step
        weights = trained_weights(trainer, pl_module)
        rounding = Rounding(compute_dtype(trainer), {name: info for name, (_, info) in weights.items()})
        for name, (value, _) in weights.items():
            rounding.add(name, whole(value), trainer.global_rank, trainer.world_size)
        rounding.add_ranks(pl_module.device)
        if not rounding.moved:
            return
        if self.rounding is None and rounding.off_grid and trainer.is_global_zero:
            logger.info(
                f"update/visible: {rounding.off_grid / rounding.compared:.1%} of the base model's weights lie off the grid of {name_of(rounding.dtype)}. "
                "Rounding moved these before training did, and small updates of theirs show at random, on average as they are."
            )
        self.rounding = rounding
        publish(trainer, {"update/visible": rounding.visible})
        pl_module.note("update/visible")

    def on_train_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Say what a small share means, unless a budget has dropped it together with the weights."""
        if self.rounding is None or "update/visible" not in trainer.callback_metrics or self.rounding.visible >= HALF or not trainer.is_global_zero:
            return
        dtype = name_of(self.rounding.dtype)
        logger.warning(
            f"update/visible is {self.rounding.visible:.2g}: {1 - self.rounding.visible:.1%} of what training changed is lost where weights are rounded to "
            f"{dtype}, so scores in {dtype}, such as val/nll here, and a model that is served in it may show far less than the fp32 weights have learned. "
            "Ways out: score in fp32 (`--model.arithmetic fp32`) and serve in it, a larger rate or more steps, or LoRA, which keeps the update apart from "
            "the weights (docs/precision.md)."
        )


def trained_weights(trainer: Trainer, module: DomainSFT) -> dict[str, tuple[Tensor, TensorInfo]]:
    """Each trained weight and where the base model's is, by its name in the model, in the same order on every rank; empty where nothing is to be measured."""
    if module.backbone is None or module.pretrained is None or not is_rounded(trainer, module):
        return {}
    model = module.backbone.model
    stored = model_tensors(model, model_folder(module.pretrained, module.revision))
    named = {id(value): (name, value) for name, value in model.state_dict(keep_vars=True).items() if name in stored}  # tied weights once
    return {name: (value, stored[name]) for name, value in named.values() if value.requires_grad}


def is_rounded(trainer: Trainer, module: DomainSFT) -> bool:
    """Whether a base model's own weights are trained, and rounded to two bytes or fewer where the run computes."""
    return module.pretrained is not None and module.adapter is None and compute_dtype(trainer).itemsize <= 2


def publish(trainer: Trainer, values: dict[str, float]) -> None:
    """Give numbers to the other callbacks and the loggers."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
    for board in trainer.loggers:
        board.log_metrics(values, step=max(0, trainer.global_step - 1))  # at the step that ended last, as Lightning logs validation


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
