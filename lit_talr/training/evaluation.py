"""Validation and test: the mean NLL of the validation tokens, and the domain's score of generated responses."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_talr.data.batch_plan import BatchPlan, MicroBatch
from lit_talr.data.encoded import Batch
from lit_talr.domains.base import DomainDataModule
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.arithmetic import Arithmetic, arithmetic_name, check_arithmetic, forward_context, scored_weights
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.generation import Generation, Response
from lit_talr.modeling.responder import Responder
from lit_talr.modeling.strategies import shards_weights
from lit_talr.training.building import Source
from lit_talr.training.supported import check_generation
from lit_talr.utils.collectives import sum_over_ranks
from lit_talr.utils.identity import WeightsIdentity
from lit_talr.utils.score import DIGITS, Items, Score


class Measured(NamedTuple):
    """Everything that a logged number belongs to, but its value."""

    weights: WeightsIdentity
    arithmetic: str
    items: Items | None


class EvaluatedModule(LightningModule):
    """Scores a backbone on validation rows by token, and on test rows by response; a subclass builds and trains the backbone."""

    backbone: Backbone | None
    pretrained: str | None
    revision: str | None
    generation: Generation
    source: Source
    arithmetic: Arithmetic

    def __init__(self) -> None:
        super().__init__()
        self.test_metric: DomainMetric | None = None
        self.source_weights: WeightsIdentity | None = None  # those that were loaded
        self.first_step = 0  # steps of an earlier fit in this process
        self.restored_step: int | None = None  # that of the weights, where earlier ones were put back
        self.measured: dict[str, Measured] = {}  # by the name of the number
        self.validated_step: int | None = None  # of a fit
        self._responder: Responder | None = None
        self._num_responses = 0  # of this rank
        self._val_sums: Tensor | None = None  # float64: this rank's sum of NLL, number of correct tokens, number of tokens
        self._scoring = ExitStack()  # holds the weights that are scored for the length of an evaluation
        self._scoring_depth = 0

    def setup(self, stage: str) -> None:
        check_arithmetic(self.trainer, self.arithmetic)
        if stage == "test":
            self.check_generation(self.trainer)
        if stage != "fit" and self.backbone is None and not self.trainer.ckpt_path:
            self.source_weights = self.source.weights(self.trainer)

    @property
    def data(self) -> DomainDataModule:
        """The domain that the trainer was given."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DomainDataModule):
            raise ValueError(
                f"{type(self).__name__} needs a DomainDataModule, such as Records, since it counts the tokens of every optimizer step beforehand; "
                "give `datamodule=Records(...)` in place of a data loader."
            )
        return data

    @property
    def plan(self) -> BatchPlan:
        """The plan of the training batches."""
        assert self.data.train_plan is not None
        return self.data.train_plan

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run, from the plan."""
        return self.plan.num_steps(self.trainer.max_epochs, self.trainer.max_steps)

    @property
    def weights(self) -> WeightsIdentity:
        """The weights that the model has now."""
        assert self.source_weights is not None
        if self.trainer.state.fn != "fit":
            return self.source_weights
        return self.source_weights._replace(step=self.first_step + self.trainer.global_step if self.restored_step is None else self.restored_step)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Computes everything in the block in the arithmetic of scores. Blocks may be nested. Collective under DeepSpeed."""
        assert self.backbone is not None
        with ExitStack() as stack:
            if not self._scoring_depth:
                stack.enter_context(scored_weights(self.trainer, self.backbone, self.arithmetic))
            stack.enter_context(forward_context(self.trainer, self.arithmetic))
            self._scoring_depth += 1
            try:
                yield
            finally:
                self._scoring_depth -= 1

    def end_scoring(self) -> None:
        """Gives the model its own weights again, at the end of an evaluation."""
        self._scoring.close()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Logs a number, and notes which weights it is of."""
        super().log(name, value, *args, **kwargs)
        self.note(name)

    def log_step(self, values: Mapping[str, Tensor | float]) -> None:
        """Logs the numbers of an optimizer step, which is not counted yet.

        They are with the loggers at once. Lightning hands them on after the step's checkpoint is written, and a run that ends between the two lacks them.
        """
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "train/loss" or name.endswith("temperature"), logger=False)
        step, every = self.trainer.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and ((step + 1) % every == 0 or self.trainer.should_stop):
            numbers = {name: float(value) for name, value in values.items()}
            for logger in self.trainer.loggers:
                logger.log_metrics(numbers, step)
                logger.save()

    def log_score(self, name: str, value: Tensor | float, items: Items | None) -> None:
        """Logs a score, and notes the weights, the arithmetic and the items that it is of."""
        self.log(name, value)
        self.note(name, items)

    def note(self, name: str, items: Items | None = None) -> None:
        """Notes what a number that is logged now belongs to."""
        vllm = items is not None and items.unit == "responses" and self.generation.engine == "vllm"
        self.measured[name] = Measured(self.weights, self.scored_in(vllm), items)

    def scored_in(self, vllm: bool = False) -> str:
        """The arithmetic of scores in words; vLLM holds rounded weights in place of autocast."""
        name = arithmetic_name(self.trainer, self.arithmetic)
        return name.replace("autocast", "weights") if vllm else name

    def score_records(self) -> dict[str, Score]:
        """The logged numbers by name, each with what it belongs to."""
        records = {}
        for name, value in self.trainer.callback_metrics.items():
            if name == "epoch":
                continue
            weights, arithmetic, items = self.measured.get(name) or Measured(self.weights, self.scored_in(), None)
            about = (None, None, None) if items is None else (items.number, items.unit, items.digest[:DIGITS])
            records[name] = Score(float(value), weights.step, weights.digest, weights.base and weights.base[:DIGITS], arithmetic, *about)
        return records

    def on_validation_epoch_start(self) -> None:
        self._scoring.enter_context(self.scoring())
        self._val_sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._val_sums is not None
        if not batch["ids"] and not shards_weights(self.trainer.strategy):
            return
        with self.scoring():
            output = self(batch, ["correct"])
        parts = output.nll, output.correct, batch["labels"] != IGNORE_INDEX
        self._val_sums = self._val_sums + torch.stack([part.sum(dtype=torch.float64) for part in parts])

    def on_validation_epoch_end(self) -> None:
        """Logs token means over all ranks."""
        assert self._val_sums is not None
        self.end_scoring()
        nll, correct, number = sum_over_ranks(self._val_sums)
        items = self.data.token_items("val").first(int(number))
        self.log_score("val/nll", nll / number, items)
        self.log_score("val/perplexity", (nll / number).exp(), items)
        self.log_score("val/token_accuracy", correct / number, items)
        if self.trainer.state.fn == "fit":
            self.log("epoch", self.trainer.current_epoch + 1.0)  # which Lightning would log from 0
        self.validated_step = self.trainer.global_step

    def on_fit_end(self) -> None:
        """Keeps the identity of the trained weights for a command that follows in this process."""
        self.source_weights = self.weights

    def validate_if_missed(self) -> None:
        """Validates a resumed run where the one that it continues was ended just before it would have."""
        trainer = self.trainer
        step = trainer.global_step
        epoch, own = divmod(step - 1, self.plan.steps_per_epoch)
        own, total = ((number + 1) * trainer.accumulate_grad_batches for number in (own, step - 1))
        every = trainer.check_val_every_n_epoch
        in_epoch = every is None or (epoch + 1) % every == 0
        due = in_epoch and ((total if every is None else own) % (trainer.val_check_batch or 1) == 0 or step == self.num_steps)
        if step and due and trainer.enable_validation and self.validated_step != step:
            progress = trainer.fit_loop.epoch_progress.current
            now, progress.completed = progress.completed, epoch  # callbacks and names of checkpoints read the epoch from it
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training, progress.completed = True, now

    def on_test_epoch_start(self) -> None:
        self._scoring.enter_context(self.scoring())
        self._num_responses = 0
        self.test_metric = self.data.metric().to(self.device)

    def test_step(self, batch: MicroBatch, batch_idx: int) -> list[Response]:  # type: ignore[override]
        """Generates and scores responses to a batch of prompts; callbacks get them."""
        assert self.test_metric is not None
        self._num_responses += len(batch.ids)
        responses = self.respond([self.data.prompts["test"][index] for index in batch.ids])
        self.test_metric.update([response.text for response in responses], [self.data.kept["test"][index] for index in batch.ids])
        return responses

    def on_test_epoch_end(self) -> None:
        """Logs the domain's scores over all ranks, ``test/score`` among them."""
        assert self.test_metric is not None
        self.end_scoring()
        number = sum_over_ranks(torch.tensor(self._num_responses, device=self.device))
        items = self.data.response_items("test").first(int(number))
        for name, value in self.test_metric.compute().items():
            self.log_score(f"test/{name}", value.float(), items)

    def respond(self, prompts: list[list[int]], settings: Generation | None = None) -> list[Response]:
        """Generates a response for each prompt, with the module's settings unless others are given."""
        assert self.backbone is not None
        if self._responder is None:
            self._responder = Responder(self.pretrained, self.revision, self.scored_in(vllm=True))
        with self.scoring():
            return self._responder.respond(self.backbone, self.data.encoder, prompts, settings or self.generation)

    def check_generation(self, trainer: Trainer, settings: Generation | None = None) -> None:
        """Refuses to generate where that is not supported.

        Raises:
            ValueError: With the way out.
        """
        check_generation(trainer, self.generation, settings or self.generation, self.pretrained)

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> Any:
        """Refuses: a checkpoint holds weights and optimizer state, not the module's options."""
        raise ValueError(
            "Checkpoints keep no options, so `load_from_checkpoint` cannot build the module. Resume with `Trainer.fit(module, data, ckpt_path=...)`, score "
            "with `Trainer.test(module, data, ckpt_path=...)`, or load the model that `lit-talr export` writes by `AutoModelForCausalLM.from_pretrained`."
        )
