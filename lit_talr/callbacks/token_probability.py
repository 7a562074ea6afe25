"""How probable the supervised tokens are, epoch by epoch: which are learned first, which late, and which the loss holds down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor

from lit_talr.curriculum.show import cohort_figure, hardest_page, layout, loss_figure, span
from lit_talr.curriculum.token_groups import FIELDS, Row, bin_edges, bins, cohorts, group_rows, probabilities, token_sums, write_table
from lit_talr.data.encoded import Batch
from lit_talr.modeling.evaluation_mode import evaluation_mode
from lit_talr.module import DomainSFT
from lit_talr.training.base_nll import score_tokens
from lit_talr.training.resume import check_same
from lit_talr.utils.collectives import sum_over_ranks

CONTEXT = 24  # tokens shown before a hard one; a quarter as many after it


class TokenProbability(Callback):
    """Statistics of the supervised tokens' probabilities by epoch, to the logger and to ``token_probability.parquet`` of the run folder.

    Two sets of tokens are watched. ``train``: every token as training saw it, under the weights of its step; free, since its NLL is there already.
    ``probe``: a fixed sample of examples, scored under the weights at the end of each epoch, and before the first one (epoch 0, the starting model).
    The probe's tokens also form cohorts by their probability under the starting model, each followed through the epochs: a share of p > 0.2 cannot
    show whether the hard tokens are learned. All counts are exact over ranks and after a resume.

    The table has a row for each epoch, ``set`` and group: ``all`` tokens, each ``bin`` of probability, each ``cohort``, each of the ``hardest`` tokens
    of the probe with its text. Columns: ``num_tokens``, the means of ``probability``, ``nll`` (nats), ``weight``, ``weighted_nll``, the shares above the
    ``threshold`` and at the least weight of the loss, and for ``all`` the mean over the epoch's steps of what the loss reports (``talr/temperature``).
    TensorBoard also gets histograms by epoch, figures, the hardest tokens as text and a page of charts, "Curriculum".

    Args:
        probe: The split that the probe is drawn from.
        probe_size: Number of its examples, at least 1; all where there are fewer.
        num_bins: Equally wide bins of probability, at least 1.
        threshold: Probability above which a token counts as easy, in (0, 1); 0.2 is the paper's figure's.
        cohort_edges: Inner bounds of the cohorts, rising in (0, 1).
        num_hardest: How many of the least probable tokens to show, at least 0.

    Raises:
        ValueError: For a number out of range; when resuming a run that was not watched from its start, or otherwise.
    """

    def __init__(
        self,
        probe: Literal["train", "val"] = "train",
        probe_size: int = 256,
        num_bins: int = 20,
        threshold: float = 0.2,
        cohort_edges: Sequence[float] = (0.01, 0.05, 0.2, 0.5, 0.9),
        num_hardest: int = 20,
    ) -> None:
        for name, value, least in (("probe_size", probe_size, 1), ("num_bins", num_bins, 1), ("num_hardest", num_hardest, 0)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must lie between 0 and 1, got {threshold}.")
        if list(cohort_edges) != sorted(set(cohort_edges)) or not all(0 < edge < 1 for edge in cohort_edges):
            raise ValueError(f"`cohort_edges` must rise and lie between 0 and 1, got {list(cohort_edges)}.")
        self.probe = probe
        self.probe_size = probe_size
        self.num_bins = num_bins
        self.threshold = threshold
        self.cohort_edges = list(cohort_edges)
        self.num_hardest = num_hardest
        self.rows: list[Row] = []
        self.start_nll: Tensor | None = None  # [number of probe tokens], under the starting model, on the CPU
        self.sums: Tensor | None = None  # [num_bins, len(FIELDS)] float64 over all ranks, of the epoch's finished steps
        self.metrics: dict[str, tuple[Tensor, int]] = {}  # sums over the epoch's steps of what the loss reports, and their number
        self._open: Tensor  # this rank's sums over the micro-batches of the open step

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if self.start_nll is None:
            if pl_module.loaded_step:
                raise ValueError("`TokenProbability` must watch a run from its start, but the checkpoint is of a run without it; leave it out to resume.")
            self.watch(trainer, pl_module, epoch=0)
        self._open = torch.zeros(self.num_bins, len(FIELDS), dtype=torch.float64, device=pl_module.device)
        self.sums = torch.zeros_like(self._open) if self.sums is None else self.sums.to(pl_module.device)
        epoch, step = divmod(trainer.global_step, pl_module.plan.steps_per_epoch)
        if step == 0 and all(row["epoch"] != epoch for row in self.rows):  # resumed from the last step of an epoch, written before the epoch ended
            self.watch(trainer, pl_module, epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: DomainSFT, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx == 0:  # of an epoch; a run that is resumed inside one goes on with the sums of its checkpoint
            self.sums, self.metrics = torch.zeros_like(self._open), {}

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DomainSFT, outputs: Mapping[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        assert self.sums is not None
        stats = outputs["stats"]
        least_weight = pl_module.loss.least_weight
        self._open += token_sums(bins(stats.nll, self.num_bins), self.num_bins, stats.nll, stats.mask, self.threshold, outputs["weights"], least_weight)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            opened, self._open = self._open, torch.zeros_like(self._open)
            if pl_module.guard.skips:  # what is no number would spoil the epoch's sums; all ranks agree
                return
            self.sums += sum_over_ranks(opened)
            for name, value in pl_module.loss.metrics().items():
                total, count = self.metrics.get(name, (0.0, 0))
                self.metrics[name] = total + value.detach().double(), count + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.watch(trainer, pl_module, epoch=trainer.current_epoch + 1)

    def watch(self, trainer: Trainer, module: DomainSFT, epoch: int) -> None:
        """Score the probe, and keep and log the epoch's rows; collective."""
        ids = probe_ids(len(module.data.encoded[self.probe]), self.probe_size)
        nll = self.score(trainer, module, ids).cpu()
        if self.start_nll is None:
            self.start_nll = nll
        rows = [{"set": "probe", **row} for row in self.probe_rows(nll, self.start_nll)]
        rows += [{"set": "probe", **row} for row in hardest_rows(module, self.probe, ids, nll, self.start_nll, self.num_hardest)]
        if epoch:
            assert self.sums is not None
            means = {name: float(total) / count for name, (total, count) in self.metrics.items()}
            rows += [{"set": "train", **row} for row in self.train_rows(self.sums, module.loss.least_weight is not None, means)]
        self.rows = [row for row in self.rows if row["epoch"] != epoch] + [{"epoch": epoch, "threshold": self.threshold, **row} for row in rows]
        if trainer.is_global_zero:
            write_table(Path(trainer.default_root_dir) / "token_probability.parquet", self.rows)
        self.publish(trainer, epoch)

    def score(self, trainer: Trainer, module: DomainSFT, ids: np.ndarray) -> Tensor:
        """``[number of supervised tokens]`` NLLs of the probe's examples, one after the other, on every rank."""
        with evaluation_mode(module), trainer.precision_plugin.forward_context():
            return score_tokens(lambda batch: module(batch).nll, module.data.encoded[self.probe], ids, module.data.batching, trainer)

    def probe_rows(self, nll: Tensor, start_nll: Tensor) -> list[Row]:
        mask, edges = torch.ones_like(nll, dtype=torch.bool), [0.0, *self.cohort_edges, 1.0]
        by_bin = token_sums(bins(nll, self.num_bins), self.num_bins, nll, mask, self.threshold)
        by_cohort = token_sums(cohorts(start_nll, self.cohort_edges), len(edges) - 1, nll, mask, self.threshold)
        return [
            *group_rows(by_bin.sum(0, keepdim=True), "all", [0.0, 1.0]),
            *group_rows(by_bin, "bin", bin_edges(self.num_bins)),
            *group_rows(by_cohort, "cohort", edges),
        ]

    def train_rows(self, sums: Tensor, floored: bool, means: dict[str, float]) -> list[Row]:
        everything = group_rows(sums.sum(0, keepdim=True), "all", [0.0, 1.0], weighted=True, floored=floored)
        return [everything[0] | means, *group_rows(sums, "bin", bin_edges(self.num_bins), weighted=True, floored=floored)]

    def publish(self, trainer: Trainer, epoch: int) -> None:
        """Scalars to every logger; histograms, figures and text to TensorBoard."""
        rows = [row for row in self.rows if row["epoch"] == epoch]
        for logger in trainer.loggers:
            # At the step that ended last, as Lightning logs validation: what is logged at the next one is hidden when the run is resumed.
            logger.log_metrics(self.scalars(rows), step=max(0, trainer.global_step - 1))
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not trainer.is_global_zero:
            return
        if trainer.loggers and not boards and epoch == 0:
            Console(stderr=True).print("TokenProbability: histograms, figures and texts go to TensorBoard only; token_probability.parquet holds all numbers.")
        for board in boards:
            if epoch == 0:
                spans = [span(row) for row in rows if row["group"] == "cohort"]  # also empty ones: runs of the same page share their charts
                board.add_custom_scalars(layout(spans, self.threshold))
            for name in dict.fromkeys(row["set"] for row in rows):
                add_histogram(board, f"probability/{name}", [row for row in rows if (row["set"], row["group"]) == (name, "bin")], epoch)
            if epoch:
                by_bin = [row for row in rows if (row["set"], row["group"]) == ("train", "bin")]
                board.add_figure("curriculum/loss_by_probability", loss_figure(by_bin, f"Where the loss of epoch {epoch} comes from"), epoch)
                board.add_figure("curriculum/cohorts", cohort_figure([row for row in self.rows if row["group"] == "cohort"]), epoch)
            if self.num_hardest:
                board.add_text("hardest_tokens", hardest_page([row for row in rows if row["group"] == "hardest"]), epoch)
            board.flush()

    def scalars(self, rows: Sequence[Row]) -> dict[str, float]:
        """What an epoch's rows say in single numbers."""
        found: dict[str, float | None] = {}
        for row in rows:
            if row["group"] == "cohort":
                found[f"cohort/{span(row)}"] = row["probability"]
            elif row["group"] == "all":
                found[f"{row['set']}/share_above_{self.threshold:g}"] = row["share_above"]
                if row["set"] == "probe":
                    found["probe/nll"] = row["nll"]
                else:
                    found |= {"train/epoch_nll": row["nll"], "train/mean_weight": row["weight"], "train/share_at_floor": row["share_at_floor"]}
        return {name: value for name, value in found.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        names = ("probe", "probe_size", "num_bins", "threshold", "cohort_edges")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Equal on all ranks."""
        return {"settings": self.settings(), "rows": self.rows, "start_nll": self.start_nll, "sums": self.sums, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, here in self.settings().items():
            check_same(f"TokenProbability.{name}", state_dict["settings"][name], here)
        self.rows = state_dict["rows"]
        self.start_nll = state_dict["start_nll"]
        self.sums = state_dict["sums"]
        self.metrics = state_dict["metrics"]


def probe_ids(num_examples: int, probe_size: int) -> np.ndarray:
    """The probe's examples: the same for every run over as many, whatever its seed."""
    return np.sort(np.random.Generator(np.random.PCG64(0)).permutation(num_examples)[:probe_size])


def hardest_rows(module: DomainSFT, split: Literal["train", "val"], ids: np.ndarray, nll: Tensor, start_nll: Tensor, number: int) -> list[Row]:
    """The least probable tokens of the probe, the hardest first."""
    encoded, decode = module.data.encoded[split], module.data.encoder.tokenizer.decode
    starts = np.concatenate([[0], np.cumsum(encoded.num_supervised[ids])])
    rows = []
    for index in torch.argsort(nll, descending=True, stable=True)[:number].tolist():
        example = int(np.searchsorted(starts, index, side="right")) - 1
        first, last = encoded.offsets[ids[example]], encoded.offsets[ids[example] + 1]
        tokens = encoded.tokens[first:last]
        place = int(np.flatnonzero(encoded.supervised[first:last])[index - starts[example]])
        parts = tokens[max(0, place - CONTEXT) : place], tokens[place : place + 1], tokens[place + 1 : place + 1 + CONTEXT // 4]
        before, token, after = (decode(part.tolist()) for part in parts)
        now, start = probabilities(torch.stack([nll[index], start_nll[index]])).tolist()
        row = {"group": "hardest", "num_tokens": 1, "probability": now, "nll": float(nll[index]), "start_probability": start}
        rows.append({**row, "before": before, "token": token, "after": after})
    return rows


def add_histogram(board: Any, tag: str, rows: Sequence[Row], epoch: int) -> None:
    """A histogram in the bins that were counted, so that its counts are exact."""
    counts = [row["num_tokens"] for row in rows]
    means = [row["probability"] or 0.0 for row in rows]
    board.add_histogram_raw(
        tag,
        min=0.0,
        max=1.0,
        num=sum(counts),
        sum=sum(count * mean for count, mean in zip(counts, means, strict=True)),
        sum_squares=sum(count * mean**2 for count, mean in zip(counts, means, strict=True)),
        bucket_limits=[row["upper"] for row in rows],
        bucket_counts=counts,
        global_step=epoch,
    )
