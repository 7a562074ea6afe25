"""The terminal: a summary before a run, a table after it."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_talr.data.batch_plan import BatchPlan
from lit_talr.data.encoded import EncodedExamples
from lit_talr.domains.base import format_counts
from lit_talr.module import DomainSFT
from lit_talr.utils.identity import WeightsIdentity
from lit_talr.utils.score import Score, Scores, read_scores, write_scores


class Summary(Callback):
    """Prints ten lines at the start of a run and a table of scores at its end, and writes them to ``metrics.json`` of the run folder.

    Each score there has the weights, the arithmetic, the items and the base model that it belongs to (``lit_talr.utils.score.Score``). The table names
    the step of the weights, and the step of every score that is of earlier ones.
    """

    def on_train_start(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            print_table(summarize(trainer, pl_module), title=f"fit: {trainer.default_root_dir}")

    def on_fit_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        """Replace the scores of the run's earlier model; a run that was resumed at its end has no new ones, and keeps those."""
        if pl_module.loaded_step == trainer.global_step and trainer.is_global_zero:
            way_on = "to train on, raise `trainer.max_steps` or `trainer.max_epochs`"
            Console(stderr=True).print(
                f"Nothing was left to train: the run has {trainer.global_step} steps, and {pl_module.num_steps} are asked for; {way_on}.", soft_wrap=True
            )
        if trainer.callback_metrics and trainer.is_global_zero:
            write_scores(metrics_file(trainer), {"fit": pl_module.score_records()})

    def on_validation_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        if trainer.state.fn == "validate":
            self.add_scores(trainer, "validate", pl_module.score_records())

    def on_test_end(self, trainer: Trainer, pl_module: DomainSFT) -> None:  # type: ignore[override]
        self.add_scores(trainer, "test", pl_module.score_records())

    def add_scores(self, trainer: Trainer, command: str, scores: Scores) -> None:
        if trainer.is_global_zero:
            write_scores(metrics_file(trainer), {**read_scores(metrics_file(trainer)), command: scores})

    def teardown(self, trainer: Trainer, pl_module: DomainSFT, stage: str) -> None:  # type: ignore[override]
        """Print the table when the progress bar is gone."""
        if trainer.is_global_zero and trainer.callback_metrics:
            weights = trainer.ckpt_path or pl_module.pretrained or "random weights"
            command = "" if trainer.state.fn is None else trainer.state.fn.value
            title = f"{command}: {trainer.default_root_dir}" + ("" if command == "fit" else f", weights of {weights}")
            scores, now = pl_module.score_records(), pl_module.weights
            title += f", {weights_text(now)}, scored in {pl_module.scored_in()}"
            print_table({name: score_text(score, now) for name, score in sorted(scores.items())}, title)

    def on_exception(self, trainer: Trainer, pl_module: DomainSFT, exception: BaseException) -> None:  # type: ignore[override]
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)) and trainer.is_global_zero and trainer.state.fn == "fit":
            way_on = "the same line with `--ckpt_path auto` "
            if trainer.global_step and trainer.global_step == pl_module.num_steps:
                way_on += "writes what the run lacks, such as its export, since this was its last step"
            else:
                way_on += "continues from the newest checkpoint, or starts again if there is none"
            Console(stderr=True).print(f"Stopped after step {trainer.global_step}; {way_on}.", soft_wrap=True)


def metrics_file(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "metrics.json"


def score_text(score: Score, now: WeightsIdentity) -> str:
    """A value, with its step where it is not of the weights that the table is about."""
    return f"{score.value:.4g}" + ("" if score.weights == now.digest else f"  (step {score.step})")


def weights_text(weights: WeightsIdentity) -> str:
    return "weights of " + ("an unknown step" if weights.step is None else f"step {weights.step}")


def summarize(trainer: Trainer, module: DomainSFT) -> dict[str, str]:
    """The run that is about to start, in ten lines."""
    data, plan = module.data, module.plan
    sizes = [(getattr(weight, "ds_numel", weight.numel()), weight.requires_grad) for weight in module.parameters()]  # under ZeRO-3 a weight is empty
    trained, total = sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)
    train, val, epoch = data.encoded["train"], data.encoded.get("val"), plan.order(0)
    return {
        "model": f"{module.pretrained or 'random weights'} ({module.backbone.config.model_type})" if module.backbone else "",
        "parameters": f"{trained:,} trained of {total:,}" + (f", {module.adapter}" if module.adapter else ""),
        "loss": module.loss.description,
        "data": " and ".join(f"{type(source).__name__}: {source.source_name}" for source in data.sources),
        "train rows": f"{len(train):,}"
        + (f", {len(epoch):,} per epoch" if len(epoch) != len(train) else "")
        + dropped(data.counts["train"])
        + "".join(f"; {len(general.encoded['train']):,} of them {type(general).__name__}{dropped(general.counts['train'])}" for general in data.sources[1:]),
        "val rows": f"{len(val):,}{dropped(data.counts['val'])}" if val else "none",
        "tokens": f"{train.lengths[epoch].sum():,} per epoch, {train.num_supervised[epoch].sum():,} supervised" + replayed(plan) + weighted(train),
        "steps": f"{module.num_steps:,} ({plan.steps_per_epoch:,} per epoch) of up to {data.batching.batch_size} examples: "
        f"{plan.accumulate} micro-batch(es) on {trainer.world_size} rank(s)",
        "strategy": f"{type(trainer.strategy).__name__.removesuffix('Strategy')}, precision {trainer.precision}, scores in {module.scored_in()}",
        "run folder": trainer.default_root_dir,
    }


def replayed(plan: BatchPlan) -> str:
    if plan.mixture is None:
        return ""
    epoch = plan.order(0)
    general = plan.num_supervised[epoch[epoch >= plan.mixture.num_own]]
    return f" ({general.sum() / plan.num_supervised[epoch].sum():.1%} in {len(general):,} general rows)"


def weighted(encoded: EncodedExamples) -> str:
    if encoded.weights is None:
        return ""
    weights = encoded.weights[encoded.supervised]
    return f", of weights from {weights.min():g} to {weights.max():g} in the data"


def dropped(counts: Any) -> str:
    text = format_counts(counts)
    return f" (left out or changed: {text})" if text else ""


def print_table(rows: dict[str, str], title: str) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console = Console()
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(table)
