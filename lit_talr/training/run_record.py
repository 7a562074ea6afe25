"""Takes down what a run is, for its checkpoints, and restores the run of a checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lit_talr.modeling.strategies import FSDP2Strategy
from lit_talr.training.base_numbers import BaseNumbers
from lit_talr.training.configuration import Options, data_options, module_options, optimizer_options, trainer_options
from lit_talr.training.position import continue_plan
from lit_talr.training.rates import GroupOptions, group_options, restore_options
from lit_talr.training.resume import Change, check_options, why_may_differ
from lit_talr.utils.identity import WeightsIdentity
from lit_talr.utils.score import digest
from lit_talr.utils.weight_files import BASE_HASH


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
        self._hash = ""
        self._groups: GroupOptions = ()

    def describe(self, module: Any, optimizer: Optimizer) -> None:
        """Takes down this run, whose optimizer is new."""
        self._groups = group_options(optimizer)
        objects = {**module_options(module), **optimizer_options(optimizer), **trainer_options(module.trainer)}
        self._options = {**self.given, **objects, **data_options(module.data, module.plan), **base_options(module.base)}
        self._hash = digest([item for item in sorted(self._options.items()) if why_may_differ(item[0]) is None], module.num_steps)
        if module.loaded_step is None:
            self.identify(module)
            module.schedule.restore({})
        if isinstance(module.trainer.strategy, FSDP2Strategy):
            module.trainer.strategy.before_loading = partial(self.check_before_loading, module)

    def identify(self, module: Any, before: str | None = None) -> None:
        """Tells the module which weights this run changes: the base model's, a checkpoint's, or those of an earlier fit in this process.

        Args:
            module: With the weights that were loaded.
            before: Hash of the run that made them; None where it is not known.
        """
        weights = module.source_weights
        if weights is None:
            module.source_weights = WeightsIdentity(module.base.weights_hash, self._hash, 0)
        elif self._hash not in (before, weights.origin):
            module.source_weights = weights._replace(origin=digest(weights.digest, self._hash), folder=None)
        module.first_step = max(0, (module.source_weights.step or 0) - (module.loaded_step or 0))

    def check_before_loading(self, module: Any, checkpoint: Mapping[str, Any]) -> None:
        """Compares the run of a checkpoint of FSDP2, which would fail over the state of another loss before ``load`` is called.

        Raises:
            ValueError: As ``load``, and for another loss, on purpose or not.
        """
        found = self.compare(checkpoint, module) if "configuration" in checkpoint else []
        if any(change.name.endswith(".loss") for change in found):
            raise ValueError(
                "`--resume_with` cannot change the class of `model.loss` under FSDP2; `lit-talr export` the checkpoint, and start from the export."
            )

    def save(self, checkpoint: dict[str, Any], module: Any) -> None:
        position = {
            "weights": module.weights._asdict(),
            "validated_step": module.validated_step,
            "num_skipped_steps": module.guard.num_skipped,
            "schedule": module.schedule.state(),
            "run": self._hash,
        }
        checkpoint |= {"configuration": self._options, "changes": self.changes, **position}

    def load(self, checkpoint: Mapping[str, Any], module: Any) -> None:
        """Continues after a checkpoint's last step; refuses one of another run.

        Raises:
            ValueError: Naming the options that differ, with both values and the way out.
        """
        if not module.trainer.strategy.restore_checkpoint_after_setup:  # in contrast to DeepSpeed and FSDP2, there is no optimizer yet
            self.describe(module, module.optimizer(trained_weights(module)))
        found = self.compare(checkpoint, module)
        self.changed = [{"step": checkpoint["global_step"], **change._asdict()} for change in found]
        self.changes = [*checkpoint["changes"], *self.changed]
        self.identify(module, checkpoint["run"])
        module.validated_step, module.guard.num_skipped = checkpoint["validated_step"], checkpoint["num_skipped_steps"]
        module.schedule.restore(checkpoint.get("schedule", {}))
        continue_plan(checkpoint, module.plan)

    def compare(self, checkpoint: Mapping[str, Any], module: Any) -> list[Change]:
        """The options that are changed on purpose; refuses all other differences."""
        split_matters = None if module.loss.batching_invariant else type(module.loss).__name__
        return check_options(checkpoint["configuration"], self._options, self.resume_with, checkpoint["changes"], split_matters)

    def restore(self, module: Any) -> None:
        """Gives an optimizer that a checkpoint has restored this run's options, and the rate of the next step. Validates where that was missed."""
        restore_options(module.trainer, self._groups, module.schedule, module.loaded_step, module.num_steps)
        module.validate_if_missed()


def trained_weights(module: LightningModule) -> Iterator[Tensor]:
    """The weights that the optimizer changes."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def ignore_loss_state(module: LightningModule, keys: Any) -> None:
    """Leaves a loss of another kind to the comparison of the runs, which names it; torch would refuse its state first."""
    for names in (keys.missing_keys, keys.unexpected_keys):
        names[:] = [name for name in names if not name.startswith("loss.")]


def base_options(base: BaseNumbers) -> Options:
    """The contents of the base model."""
    nll = {} if base.nll is None else {"base NLL (hash of base weights, rows, precision and attention)": base.nll.key[:16]}
    fishers = {"base Fisher information (hash of base weights, examples and attention)": [fisher.key[:16] for fisher in base.fishers]} if base.fishers else {}
    return {BASE_HASH: base.weights_hash and base.weights_hash[:16], **nll, **fishers}
