"""Takes down what a run is, for its checkpoints, and restores the run of a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lit_talr.training.base_model import BaseNumbers
from lit_talr.training.configuration import Options, data_options, module_options, optimizer_options, trainer_options
from lit_talr.training.position import continue_plan
from lit_talr.training.rates import GroupOptions, group_options, restore_options
from lit_talr.training.resume import check_options


class RunRecord:
    """The options and contents of a run, stored in its checkpoints and compared when one of them is continued.

    Attributes:
        given: The whole configuration, where a command line gave one; else the options are those of the objects alone.
        resume_with: Names of options that are changed on purpose, such as ``model.optimizer.lr``.
        changes: Those that were changed by this or an earlier resume, the newest last.
        changed: Those that were changed by this resume.
    """

    def __init__(self) -> None:
        self.given: Options = {}
        self.resume_with: Sequence[str] = ()
        self.changes: list[dict[str, Any]] = []
        self.changed: list[dict[str, Any]] = []
        self._options: Options = {}
        self._groups: GroupOptions = ()
        self._loaded: Mapping[str, Any] | None = None  # the checkpoint, until it is compared

    def describe(self, module: Any, optimizer: Optimizer) -> None:
        """Takes down this run, whose optimizer is new; compares it where its checkpoint was loaded before."""
        self._groups = group_options(optimizer)
        objects = {**module_options(module), **optimizer_options(optimizer), **trainer_options(module.trainer)}
        self._options = {**self.given, **objects, **data_options(module.data, module.plan), **base_options(module.base)}
        if not module.trainer.strategy.restore_checkpoint_after_setup:
            self.compare(module)

    def save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"configuration": self._options, "changes": self.changes}

    def load(self, checkpoint: Mapping[str, Any], module: Any) -> None:
        """Continues after the checkpoint's last step; compares its run where this run's optimizer was made before, as by DeepSpeed and FSDP2."""
        self._loaded = checkpoint
        if module.trainer.strategy.restore_checkpoint_after_setup:
            self.compare(module)
        continue_plan(checkpoint, module.plan)

    def compare(self, module: Any) -> None:
        """Refuses the checkpoint of another run, once.

        Raises:
            ValueError: Naming the options that differ, with both values and the way out.
        """
        if self._loaded is None:
            return
        checkpoint, self._loaded = self._loaded, None
        split_matters = None if module.loss.batching_invariant else type(module.loss).__name__
        found = check_options(checkpoint["configuration"], self._options, self.resume_with, checkpoint["changes"], split_matters)
        self.changed = [{"step": checkpoint["global_step"], **change._asdict()} for change in found]
        self.changes = [*checkpoint["changes"], *self.changed]

    def restore(self, module: Any) -> None:
        """Gives an optimizer that a checkpoint has restored this run's options, and the rate of the next step."""
        if module.loaded_step is not None:
            restore_options(module.trainer, self._groups, module.schedule, module.loaded_step, module.num_steps)


def base_options(base: BaseNumbers) -> Options:
    """The contents of the base model."""
    nll = {} if base.nll is None else {"base NLL (hash of base weights, rows, precision and attention)": base.nll.key[:16]}
    return {"model.pretrained (hash of its weights)": base.weights_hash and base.weights_hash[:16], **nll}
