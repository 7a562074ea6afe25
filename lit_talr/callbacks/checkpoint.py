"""When checkpoints are written; lit_talr/checkpoint/whole.py writes them."""

import logging
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_talr.checkpoint.whole import remove, remove_parts, save_whole
from lit_talr.training.evaluation import EvaluatedModule
from lit_talr.training.monitors import is_measured_now
from lit_talr.utils.collectives import all_ranks_come, sum_over_ranks
from lit_talr.utils.errors import explain_lost_rank

logger = logging.getLogger(__name__)


class WholeCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with checkpoints that are complete or absent, whenever the run is killed, and that fall between optimizer steps.

    Without ``monitor`` it also writes one when the run is asked to end (SIGTERM, as schedulers send before they take a machine away): the open step is
    finished, all ranks agree, the checkpoint is written, and the process exits with 143. It also writes one where a callback or a validation fails between
    two steps on all ranks, so that the error costs no step.

    Args:
        filename: Name of a checkpoint; without the step in it, ``--ckpt_path last`` goes by the time of writing.
        monitor: Keep the best by this metric; the newest if left out.
        mode: ``min`` or ``max``: whether less or more of the metric is better.
        save_top_k: How many checkpoints stay; -1 for all.
        every_n_epochs: Write after every so many epochs.
        every_n_train_steps: Write after every so many optimizer steps instead.

    With ``monitor`` a checkpoint is written only where the metric has just been measured, and so on these very weights. It is written before one without
    ``monitor``, which then knows it; checkpoints that it replaces are deleted only after that one. So a run that is killed at any moment, or extended, goes
    on to have the same best checkpoints as an uninterrupted one.
    """

    def __init__(
        self,
        filename: str = "last-{step}",
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int = 1,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
    ) -> None:
        super().__init__(
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.asked_to_end = False
        self.between_steps = False  # whether a step is done, and the next one not begun
        self.judged_step: int | None = None  # step of the weights whose metric was judged last
        self.replaced: list[str] = []  # worse checkpoints, kept until one without `monitor` knows of the better

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if stage == "fit":
            trainer.callbacks = sorted(trainer.callbacks, key=lambda part: isinstance(part, WholeCheckpoint) and part.monitor is None)  # type: ignore[attr-defined]
            if trainer.is_global_zero:
                remove_parts(Path(self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            Path(str(self.dirpath)).mkdir(parents=True, exist_ok=True)
        if self.monitor is not None:
            self.remove_unknown(trainer)
        else:
            signal.signal(signal.SIGTERM, self.ask_to_end)  # replaces Lightning's handler, in which ranks wait for each other

    def ask_to_end(self, *_: Any) -> None:
        self.asked_to_end = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.between_steps = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            if self.monitor is not None:
                self.save_best(trainer, pl_module)
                return
            self.between_steps = True
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.end_if_asked(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is not None:
            self.save_best(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is not None:
            self.save_best(trainer, pl_module)
        else:
            super().on_train_epoch_end(trainer, pl_module)

    def save_best(self, trainer: Trainer, module: LightningModule) -> None:
        """Write a checkpoint if the metric was measured on the present weights, and is among the best."""
        is_new = is_measured_now(module, self.monitor) and self.judged_step != trainer.global_step
        if is_new and not trainer.sanity_checking and trainer.state.fn == "fit" and (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self.judged_step = trainer.global_step
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a metric that does not exist, once every callback has measured and a checkpoint is written."""
        epochs = max(getattr(callback, "every_n_epochs", None) or 1 for callback in trainer.callbacks)  # type: ignore[attr-defined]
        assert isinstance(pl_module, EvaluatedModule)
        ready = pl_module.validated_step is not None and trainer.current_epoch >= epochs
        if self.monitor is not None and ready and self.monitor not in trainer.callback_metrics and self.judged_step is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"`WholeCheckpoint` monitors `{self.monitor}`, which nothing has measured; there are {known}.")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.end_if_asked(trainer, pl_module)

    def end_if_asked(self, trainer: Trainer, module: LightningModule) -> None:
        """Write a checkpoint and end the run where any rank was asked to end. Collective."""
        if self.monitor is not None or not sum_over_ranks(torch.tensor(float(self.asked_to_end), device=trainer.strategy.root_device)):
            return
        assert isinstance(module, EvaluatedModule)
        module.end_scoring()
        if self._last_global_step_saved != trainer.global_step:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
        raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a checkpoint where all ranks fail between two steps, as by an error of a callback. What was measured at this step is measured again."""
        if trainer.state.fn != "fit" or self.monitor is not None or not self.between_steps or self._last_global_step_saved == trainer.global_step:
            return
        if (
            isinstance(exception, (SIGTERMException, ConnectionError))
            or explain_lost_rank(str(exception))
            or not all_ranks_come(f"failed at {trainer.global_step}")
        ):
            return
        assert isinstance(pl_module, EvaluatedModule)
        pl_module.end_scoring()
        pl_module.validated_step = None
        outcome = "" if isinstance(exception, KeyboardInterrupt) else "its checkpoint is written; continue with `--ckpt_path auto`."  # which Summary says then
        try:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
        except OSError as error:  # the run ends with its own error, not with this one; the system's, such as a full disk, has the way out already
            outcome = f"{str(error).partition(';')[0]}." if getattr(exception, "errno", None) else str(error)
        if outcome and trainer.is_global_zero:
            logger.warning(f"{type(exception).__name__} after step {trainer.global_step}: {outcome}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.monitor is None:
            self.end_if_asked(trainer, pl_module)  # since the last step
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is lost from here on

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        path, between_steps, self.between_steps = Path(filepath), self.between_steps, False  # what cannot be written is not tried again
        save_whole(trainer, path, self.save_weights_only)
        self.between_steps = between_steps
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if self.monitor is None:
            for callback in callbacks_of(trainer):
                callback.remove_replaced(trainer)
        prefix = str(self.filename).split("{")[0]
        if self.monitor is None and self.save_top_k == 1 and prefix and trainer.is_global_zero:
            for other in path.parent.glob(f"{prefix}*.ckpt"):  # also those that a killed run left behind
                if other != path:
                    remove(other)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "judged_step": self.judged_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the paths, relative to a run folder that may have moved."""
        assert self.dirpath is not None
        here = Path(self.dirpath)
        moved = {name: str(here / Path(value).name) for name, value in state_dict.items() if name.endswith("_path") and value}
        best = {str(here / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        self.judged_step = state_dict.get("judged_step")
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Compares names only, since the run folder may have had another path: also the checkpoint that the run was resumed from goes."""
        return Path(previous).name != Path(current).name

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Delete a checkpoint that was replaced; a best one only after a checkpoint that knows of it."""
        self.replaced.append(Path(filepath).name)
        if self.monitor is None or all(other.monitor is not None for other in callbacks_of(trainer)):
            self.remove_replaced(trainer)

    def remove_replaced(self, trainer: Trainer) -> None:
        """Delete what was replaced; what another command reads is deleted with the next checkpoint."""
        known = {Path(path).name for path in self.best_k_models}
        assert self.dirpath is not None
        folder = Path(self.dirpath)
        self.replaced = [name for name in self.replaced if trainer.is_global_zero and name not in known and not remove(folder / name)]

    def remove_unknown(self, trainer: Trainer) -> None:
        """Delete the checkpoints of a killed run that the one which it continues from does not know: they are written again, or were replaced."""
        assert self.dirpath is not None
        prefix = str(self.filename).split("{")[0]
        if trainer.is_global_zero and prefix and trainer.ckpt_path and Path(trainer.ckpt_path).resolve().parent == Path(self.dirpath).resolve():
            paths = [path for callback in callbacks_of(trainer) for path in (*callback.best_k_models, callback.best_model_path)]
            known = {Path(path).name for path in (*paths, trainer.ckpt_path)}
            for path in Path(self.dirpath).glob(f"{prefix}*.ckpt"):
                if path.name not in known:
                    remove(path)


def callbacks_of(trainer: Trainer) -> list[WholeCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, WholeCheckpoint)]  # type: ignore[attr-defined]
