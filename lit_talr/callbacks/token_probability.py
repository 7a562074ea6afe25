"""How probable the supervised tokens are, epoch by epoch: which are learned early, which late, and which the loss holds down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torch import Tensor

from lit_talr.curriculum.board import add_epoch, epoch_scalars
from lit_talr.curriculum.difficulty import difficulty_rows, sequence_median, supervised_noise
from lit_talr.curriculum.token_groups import FIELDS, Row, bin_rows, bins, cohorts, group_rows, hardest_rows, token_sums, write_table
from lit_talr.data.encoded import Batch
from lit_talr.data.example import Part
from lit_talr.losses.base import measured_weights
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.module import DomainSFT
from lit_talr.training.base_nll import BaseNLL, score_tokens
from lit_talr.training.resume import check_same
from lit_talr.utils.boards import boards
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.errors import check_in, check_least


@dataclass(eq=False)
class TokenProbability(Callback):
    """Statistics of the supervised tokens' probabilities by epoch, to the logger and to ``token_probability.parquet`` of the run folder.

    Two or three sets of tokens are watched. ``train``: every token as training saw it, under the weights of its step. ``probe``: a fixed
    sample of examples, scored after each epoch, and before training (epoch 0, the base model). ``held_out``: as many of the rows that ``data.held_out`` sets
    aside, scored likewise. The probe's tokens also form cohorts by their probability under the base model, each followed through the epochs: a share of
    p > 0.2 cannot show whether the hard tokens are learned. All counts are exact over ranks and after a resume.

    The table has a row for each epoch, ``set`` and group: ``all`` tokens, each ``bin`` of probability, each ``cohort``, and each of the ``hardest`` tokens
    of the probe with its text. Columns: ``num_tokens``, the means of ``probability``, ``nll`` (nats), ``weight`` and ``weighted_nll``, the shares above the
    ``threshold`` and at the least weight of the loss, and for ``all`` the mean over the epoch's steps of the loss's own metrics (``talr/temperature``).
    Weights of the data are part of ``weight``, not of whether it is the least.

    The tokens of probe and ``held_out`` are also grouped by difficulty: ``noise``; and of the others ``hard`` (p < 0.2 under the base model), ``easy``
    (p > 0.95) and ``between``. Their columns: ``num_tokens``, the means of ``nll``, ``base_nll``, ``probability`` and ``weight``, and ``gradient_share``, of
    ``sum(weight * (1 - p))``: half the sum of the absolute gradients at the logits, without what a loss adds to the weighted NLL. The weights are those that
    the loss gives in evaluation mode, in the micro-batches that the rows would be trained in without shuffling, and its state stays as it is. (TALR's
    ``scope: step`` uses its present temperature, so every weight is 1 in epoch 0.) ``base_hard`` counts all tokens with p < 0.2 under the base model, noise
    included, ``still_hard`` those of them with p < 0.2 now. ``sequence_median`` of ``all`` is the lower median over examples of the mean NLL.

    TensorBoard, W&B and MLflow also get histograms by epoch, figures and the hardest tokens; TensorBoard a page of charts, "Curriculum".

    Args:
        probe: The split that the probe is drawn from.
        probe_size: Number of its examples, and of those of ``held_out``, at least 1; all where there are fewer.
        num_bins: Number of equally wide bins of probability, at least 1.
        threshold: Probability above which a token counts as easy, in (0, 1); 0.2 is that of the paper's figure.
        cohort_edges: Inner bounds of the cohorts, rising, in (0, 1).
        num_hardest: Number of the least probable tokens to show, at least 0.

    Raises:
        ValueError: For a number out of range; when resuming a run that was not watched from its start, or with other settings.
    """

    probe: Literal["train", "val"] = "train"
    probe_size: int = 256
    num_bins: int = 20
    threshold: float = 0.2
    cohort_edges: Sequence[float] = (0.01, 0.05, 0.2, 0.5, 0.9)
    num_hardest: int = 20

    def __post_init__(self) -> None:
        check_least("probe_size", self.probe_size, 1)
        check_least("num_bins", self.num_bins, 1)
        check_least("num_hardest", self.num_hardest, 0)
        check_in("threshold", self.threshold, "(0, 1)")
        self.cohort_edges = list(self.cohort_edges)
        if self.cohort_edges != sorted(set(self.cohort_edges)) or not all(0 < edge < 1 for edge in self.cohort_edges):
            raise ValueError(f"`cohort_edges` must rise and lie between 0 and 1, got {self.cohort_edges}.")
        self.rows: list[Row] = []
        self.base_nll: dict[str, Tensor] = {}  # by the set that is scored, [its number of tokens], on the CPU
        self.sums: Tensor | None = None  # [num_bins, len(FIELDS)] float64 over all ranks, of the epoch's finished steps
        self.metrics: dict[str, tuple[Tensor, int]] = {}  # sums of the loss's metrics over the epoch's steps, and their number
        self._open: Tensor  # this rank's sums over the micro-batches of the open step

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if not self.base_nll:
            if pl_module.loaded_step:
                raise ValueError("`TokenProbability` must watch a run from its start, but the checkpoint is of a run without it; leave it out to resume.")
            self.watch(trainer, pl_module, epoch=0)
        self._open = torch.zeros(self.num_bins, len(FIELDS), dtype=torch.float64, device=pl_module.device)
        self.sums = torch.zeros_like(self._open) if self.sums is None else self.sums.to(pl_module.device)
        epoch, step = divmod(trainer.global_step, pl_module.plan.steps_per_epoch)
        if step == 0 and all(row["epoch"] != epoch for row in self.rows):  # resumed from the last step of an epoch, saved before the epoch ended
            self.watch(trainer, pl_module, epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: DomainSFT, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx == 0:  # of an epoch; a run that is resumed inside one continues the sums of its checkpoint
            self.sums, self.metrics = torch.zeros_like(self._open), {}

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DomainSFT, outputs: Mapping[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        assert self.sums is not None
        stats, loss = outputs["stats"], pl_module.loss
        least = loss.least_weight
        least = least if least is None or stats.data_weights is None else least * stats.data_weights
        self._open += token_sums(bins(stats.nll, self.num_bins), self.num_bins, stats.nll, stats.mask, self.threshold, outputs["weights"], least)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            opened, self._open = self._open, torch.zeros_like(self._open)
            if pl_module.guard.skips:  # NaN would spoil the epoch's sums; all ranks agree
                return
            self.sums += sum_over_ranks(opened)
            for name, value in loss.metrics().items():
                total, count = self.metrics.get(name, (0.0, 0))
                self.metrics[name] = total + value.detach().double(), count + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.watch(trainer, pl_module, epoch=trainer.current_epoch + 1)

    def watch(self, trainer: Trainer, module: DomainSFT, epoch: int) -> None:
        """Score the probe and the rows that are set aside, and write and log the epoch's rows. Collective."""
        rows = self.scored_rows(trainer, module, "probe", self.probe)
        if "held_out" in module.data.encoded:
            rows += self.scored_rows(trainer, module, "held_out", "held_out")
        if epoch:
            assert self.sums is not None
            everything, *by_bin = bin_rows(self.sums, weighted=True, floored=module.loss.least_weight is not None)
            everything |= {name: float(total) / count for name, (total, count) in self.metrics.items()}
            rows += [{"set": "train", **row} for row in [everything, *by_bin]]
        self.rows = [row for row in self.rows if row["epoch"] != epoch] + [{"epoch": epoch, "threshold": self.threshold, **row} for row in rows]
        if trainer.is_global_zero:
            write_table(Path(trainer.default_root_dir) / "token_probability.parquet", self.rows)
        self.publish(trainer, epoch)

    def scored_rows(self, trainer: Trainer, module: DomainSFT, name: str, part: Part) -> list[Row]:
        """Scores a set of tokens under the weights of now. Collective."""
        encoded = module.data.encoded[part]
        ids = probe_ids(len(encoded), self.probe_size)
        nll, weights = self.score(trainer, module, name, part, ids)
        base_nll = self.base_nll.setdefault(name, nll)
        mask = torch.ones_like(nll, dtype=torch.bool)
        everything, *by_bin = bin_rows(token_sums(bins(nll, self.num_bins), self.num_bins, nll, mask, self.threshold))
        everything["sequence_median"] = sequence_median(nll, encoded.num_supervised[ids])
        rows = [everything, *by_bin]
        if name == "probe":
            edges = [0.0, *self.cohort_edges, 1.0]
            by_cohort = token_sums(cohorts(base_nll, self.cohort_edges), len(edges) - 1, nll, mask, self.threshold)
            rows += group_rows(by_cohort, "cohort", edges)
        rows += difficulty_rows(nll, weights, base_nll, supervised_noise(encoded, ids))
        if name == "probe":
            rows += hardest_rows(encoded, ids, nll, base_nll, self.num_hardest, module.data.encoder.tokenizer.decode)
        return [{"set": name, **row} for row in rows]

    def score(self, trainer: Trainer, module: DomainSFT, name: str, part: Part, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """The NLL of each supervised token of some examples, and the weight that the loss gives it in their micro-batches, on the CPU. Collective."""
        encoded, loss = module.data.encoded[part], module.loss
        numbers = module.base._replace(nll=None)
        if "base_nll" in loss.needs and name in self.base_nll:
            widths = np.zeros(len(encoded), dtype=np.int64)
            widths[ids] = encoded.num_supervised[ids]
            numbers = numbers._replace(nll=BaseNLL(self.base_nll[name], np.concatenate([[0], np.cumsum(widths)]), key=""))

        def forward(batch: Batch) -> Tensor:
            stats = module.token_stats(batch, numbers).detach()
            if stats.base_nll is None and "base_nll" in loss.needs:
                stats = stats._replace(base_nll=stats.nll)  # the model is the base model still
            return torch.stack([stats.nll, measured_weights(loss, stats).to(stats.nll)], dim=-1)

        with evaluation_mode(module), module.scoring(), isolate_rng():
            scored = score_tokens(forward, encoded, ids, module.data.batching, trainer, in_step=True)  # TALR's `scope: ranks` gathers
        nll, weights = scored.cpu().unbind(-1)
        return nll.clone(), weights.clone()

    def publish(self, trainer: Trainer, epoch: int) -> None:
        """Log an epoch's scalars to every logger, and its other views to those that show them."""
        scalars = epoch_scalars([row for row in self.rows if row["epoch"] == epoch], self.threshold)
        for logger in trainer.loggers:
            # At the step that ended last, as Lightning logs validation: what is logged at the next one is hidden when the run is resumed.
            logger.log_metrics(scalars, step=max(0, trainer.global_step - 1))
        if not trainer.is_global_zero:
            return
        shown = boards(trainer)
        if trainer.loggers and not shown and epoch == 0:
            names = " and ".join(type(logger).__name__ for logger in trainer.loggers)
            Console(stderr=True, soft_wrap=True).print(
                f"TokenProbability: {names} gets numbers only, no histograms, figures and tables (docs/loggers.md); token_probability.parquet holds all."
            )
        for board in shown:
            add_epoch(board, self.rows, epoch, self.threshold)

    def settings(self) -> dict[str, Any]:
        names = ("probe", "probe_size", "num_bins", "threshold", "cohort_edges")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """The same on all ranks."""
        base = {"start_nll": self.base_nll.get("probe"), "held_out_nll": self.base_nll.get("held_out")}
        return {"settings": self.settings(), "rows": self.rows, **base, "sums": self.sums, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, here in self.settings().items():
            check_same(f"TokenProbability.{name}", state_dict["settings"][name], here)
        self.rows = state_dict["rows"]
        base = {"probe": state_dict["start_nll"], "held_out": state_dict.get("held_out_nll")}
        self.base_nll = {name: nll for name, nll in base.items() if nll is not None}
        self.sums = state_dict["sums"]
        self.metrics = state_dict["metrics"]


def probe_ids(num_examples: int, probe_size: int) -> np.ndarray:
    """The probe's examples: the same for every run over as many examples, whatever its seed."""
    return np.sort(np.random.Generator(np.random.PCG64(0)).permutation(num_examples)[:probe_size])
