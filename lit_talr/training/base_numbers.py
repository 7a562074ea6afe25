"""Numbers of the base model that a loss needs, computed before training."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning.pytorch import Trainer

from lit_talr.data.encoded import Batch
from lit_talr.domains.base import DomainDataModule
from lit_talr.losses.base import RUNNING_BASE, LossStrategy
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.head import BaseLogits
from lit_talr.training.base_model import BaseModel
from lit_talr.training.base_nll import BaseNLL, load_base_nll
from lit_talr.training.fisher import Fisher, fisher_losses, load_fisher


class BaseNumbers(NamedTuple):
    """Numbers that a run keeps of its base model."""

    nll: BaseNLL | None = None  # of every training token, where the loss needs it
    backbone: Backbone | None = None  # runs next to the trained model where the loss needs its distributions; with adapters the trained one serves
    weights_hash: str | None = None  # None for random weights
    fishers: Sequence[Fisher] = ()  # one for each part of the loss that needs its Fisher information

    def logits(self, batch: Batch, trained: Backbone | None) -> BaseLogits:
        """Runs the base model on a batch; with adapters, that is the trained model without its adapters."""
        backbone = self.backbone or trained
        assert backbone is not None
        return backbone.base_logits(batch["input_ids"], batch["packing"])


def prepare_base(trainer: Trainer, data: DomainDataModule, loss: LossStrategy, base: BaseModel | None, adapter: bool) -> BaseNumbers:
    """Computes or loads what the loss needs of the base model, before training loads any weight. Collective."""
    if base is None:
        return BaseNumbers()
    nll = None
    if "base_nll" in loss.needs:
        encoded = data.encoded["train"]
        nll = load_base_nll(trainer, encoded, data.batching, base.identity(trainer), base.load)
        loss.prepare(nll.nll.numpy(), encoded.num_supervised)
    fishers = [load_fisher(trainer, data, ewc, base) for ewc in fisher_losses(loss)]
    runs = loss.needs & RUNNING_BASE
    backbone = base.load(trainer).requires_grad_(False) if runs and not adapter else None
    return BaseNumbers(nll, backbone, base.weights_hash(trainer), fishers)
