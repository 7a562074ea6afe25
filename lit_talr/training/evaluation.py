"""Validation and test: the mean NLL of the validation tokens, and the domain's score of generated responses."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_talr.data.batch_plan import BatchPlan, MicroBatch
from lit_talr.data.encoded import Batch
from lit_talr.domains.base import DomainDataModule
from lit_talr.kernels.token_nll import IGNORE_INDEX
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.generation import Generation, Response
from lit_talr.modeling.responder import Responder
from lit_talr.modeling.strategies import shards_weights
from lit_talr.training.supported import check_generation
from lit_talr.utils.collectives import sum_over_ranks


class EvaluatedModule(LightningModule):
    """Scores a backbone on validation rows by token, and on test rows by response; a subclass builds and trains the backbone."""

    backbone: Backbone | None
    pretrained: str | None
    revision: str | None
    generation: Generation

    def __init__(self) -> None:
        super().__init__()
        self.test_metric: DomainMetric | None = None
        self._responder: Responder | None = None
        self._val_sums: Tensor | None = None  # float64: this rank's sum of NLL, number of correct tokens, number of tokens

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

    def on_validation_epoch_start(self) -> None:
        self._val_sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._val_sums is not None
        if not batch["ids"] and not shards_weights(self.trainer.strategy):
            return
        output = self(batch, correct=True)
        parts = output.nll, output.correct, batch["labels"] != IGNORE_INDEX
        self._val_sums = self._val_sums + torch.stack([part.sum(dtype=torch.float64) for part in parts])

    def on_validation_epoch_end(self) -> None:
        """Logs token means over all ranks."""
        assert self._val_sums is not None
        nll, correct, number = sum_over_ranks(self._val_sums)
        self.log("val/nll", nll / number)
        self.log("val/perplexity", (nll / number).exp())
        self.log("val/token_accuracy", correct / number)

    def on_test_epoch_start(self) -> None:
        self.test_metric = self.data.metric().to(self.device)

    def test_step(self, batch: MicroBatch, batch_idx: int) -> list[Response]:  # type: ignore[override]
        """Generates and scores responses to a batch of prompts; callbacks get them."""
        assert self.test_metric is not None
        responses = self.respond([self.data.prompts["test"][index] for index in batch.ids])
        self.test_metric.update([response.text for response in responses], [self.data.kept["test"][index] for index in batch.ids])
        return responses

    def on_test_epoch_end(self) -> None:
        """Logs the domain's scores over all ranks, ``test/score`` among them."""
        assert self.test_metric is not None
        for name, value in self.test_metric.compute().items():
            self.log(f"test/{name}", value.float())

    def respond(self, prompts: list[list[int]], settings: Generation | None = None) -> list[Response]:
        """Generates a response for each prompt, with the module's settings unless others are given."""
        assert self.backbone is not None
        if self._responder is None:
            self._responder = Responder(self.pretrained, self.revision, str(self.trainer.precision))
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
