"""Resuming where a checkpoint was written: everything follows from its number of optimizer steps."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_talr.data.batch_plan import BatchPlan
from lit_talr.losses.base import LossStrategy
from lit_talr.modeling.lora import LoRA
from lit_talr.training.base_model import BaseNumbers
from lit_talr.utils.identity import WeightsIdentity, digest


def run_origin(loss: LossStrategy, base: BaseNumbers, lora: LoRA | None, plan: BatchPlan) -> dict[str, Any]:
    """The options and contents that a resumed run must share with the run it continues, apart from the optimizer's class."""
    nll = {} if base.nll is None else {"base NLL (hash of base weights, rows and precision)": base.nll.key[:16]}
    weights = {} if base.weights_hash is None else {"model.pretrained (hash of its weights)": base.weights_hash[:16]}
    return {
        "model.loss": loss.description,
        **nll,
        **weights,
        "model.lora": str(lora),
        "data.batching.batch_size": plan.batching.batch_size,
        "data.batching.seed": plan.seed,
        "number of training rows": len(plan.lengths),
        "data.share": None if plan.mixture is None else plan.mixture.share,
        "number of supervised tokens": int(plan.num_supervised.sum()),
    }


def check_same(name: str, loaded: Any, current: Any) -> None:
    """Refuses to resume with another value."""
    if loaded != current:
        raise ValueError(f"The checkpoint is of another run: its {name} is {loaded}, here {current}; resume with what it was started with, or start a new run.")


def check_origin(checkpoint: Mapping[str, Any], origin: Mapping[str, Any], optimizer: str) -> str:
    """Refuses a checkpoint of a run with another loss, optimizer, step size or data; returns its optimizer's class.

    Args:
        checkpoint: As Lightning loads it.
        origin: ``run_origin`` of this run.
        optimizer: Class of this run's optimizer; empty while no optimizer exists (DeepSpeed makes it before).
    """
    for name, current in origin.items():
        check_same(name, checkpoint["origin"].get(name), current)
    loaded: str = checkpoint["origin"]["model.optimizer"]
    check_same("model.optimizer", loaded, optimizer or loaded)
    return loaded


def check_model(checkpoint: Mapping[str, Any], lora: LoRA | None, state: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another model, by the first tensor whose shape differs.

    Args:
        checkpoint: As Lightning loads it; DeepSpeed keeps its weights elsewhere.
        lora: Adapters of this module.
        state: State dict of this module.
    """
    check_same("model.lora", checkpoint["origin"].get("model.lora"), str(lora))
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in checkpoint.get("state_dict", {}).items():
        if isinstance(value, Tensor) and shapes.get(name) != value.shape:
            raise ValueError(
                f"The checkpoint is of another model: its `{name}` is {list(value.shape)}, here {list(shapes.get(name, []))}; "
                "give the model it was trained with."
            )


def initial_weights(base: BaseNumbers, origin: Mapping[str, Any], num_steps: int) -> WeightsIdentity:
    """The weights that a run begins with, and what makes others of them."""
    return WeightsIdentity(base.weights_hash, digest(dict(origin), num_steps), 0)


def continue_weights(loaded: WeightsIdentity, own: WeightsIdentity | None, fits: bool) -> WeightsIdentity:
    """The weights of a checkpoint, from which a run goes on that may differ from the one that made them, in its number of steps for example."""
    if not fits or own is None or loaded.origin == own.origin:
        return loaded
    return loaded._replace(origin=digest(loaded.origin, loaded.step, own.origin))


def continue_plan(checkpoint: Mapping[str, Any], plan: BatchPlan) -> None:
    """Continues the batch plan, and Lightning's loops, after the checkpoint's last optimizer step."""
    num_steps = checkpoint["global_step"]
    plan.resume(*divmod(num_steps, plan.steps_per_epoch))
    if num_steps:
        set_progress(checkpoint["loops"]["fit_loop"], num_steps, plan.steps_per_epoch, plan.accumulate)


def set_progress(fit_loop: dict[str, Any], num_steps: int, steps_per_epoch: int, accumulate: int) -> None:
    """Sets a checkpoint's loops to their state right after optimizer step ``num_steps``.

    Lightning counts micro-batches, whose number per step may differ now, and it may have saved at any moment of the epoch.
    """
    epoch = (num_steps - 1) // steps_per_epoch
    done = (num_steps - epoch * steps_per_epoch) * accumulate
    for part in ("total", "current"):
        fit_loop["epoch_progress"][part].update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    for part, number in (("total", num_steps * accumulate), ("current", done)):
        fit_loop["epoch_loop.batch_progress"][part].update(ready=number, started=number, processed=number, completed=number - 1)
    fit_loop["epoch_loop.batch_progress"]["is_last_batch"] = done == steps_per_epoch * accumulate
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = num_steps - 1
